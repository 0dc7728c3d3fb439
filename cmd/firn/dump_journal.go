package main

import (
	"context"
	"fmt"
	"io"

	"github.com/firnlog/firn/broker/commitlog/journal"
	"github.com/firnlog/firn/record"
)

// journal dumps a file of the journal: its groups, their records and, if that
// is wanted, the batches in them.
func (d dumper) journal(ctx context.Context, path string, r io.ReaderAt, size int64) error {
	groups, records := 0, 0
	end, cause, err := journal.ReadFile(r, size, func(g *journal.Group) error {
		groups++
		records += len(g.Records)
		d.out.line(struct {
			Kind       string `json:"kind"`
			Position   int64  `json:"position"`
			Bytes      int64  `json:"bytes"`
			Journal    string `json:"journal"`
			Generation int64  `json:"generation"`
			Sequence   int64  `json:"sequence"`
			Records    int    `json:"records"`
		}{"group", g.Position, g.Length, fmt.Sprintf("%x", g.Journal), g.Generation, g.Sequence, len(g.Records)},
			"  byte %-10d group %d of generation %d, %s, %s", g.Position, g.Sequence, g.Generation, plural(len(g.Records), "record"), bytesText(g.Length))
		for _, rec := range g.Records {
			if err := d.journaled(path, rec); err != nil {
				return err
			}
		}
		return ctx.Err()
	})
	if err != nil {
		return err
	}
	d.out.line(struct {
		Kind    string `json:"kind"`
		Groups  int    `json:"groups"`
		Records int    `json:"records"`
		End     int64  `json:"end"`
		Then    string `json:"then"`
	}{"summary", groups, records, end, cause.Error()},
		"  %s with %s, checksums right, up to byte %d\n  then: %v (what the file held before, a group that was never finished, or damage: the broker tells which when it starts)", plural(groups, "group"), plural(records, "record"), end, cause)
	return nil
}

func (d dumper) journaled(path string, rec journal.Record) error {
	if rec.Truncates() {
		d.out.line(struct {
			Kind      string        `json:"kind"`
			TopicID   string        `json:"topicId"`
			Partition int32         `json:"partition"`
			Epoch     record.Epoch  `json:"leaderEpoch"`
			From      record.Offset `json:"from"`
			To        record.Offset `json:"to"`
		}{"truncated", rec.Topic.String(), rec.Index, rec.Epoch, rec.Base, rec.End},
			"    topic id %s partition %d: cut back from offset %d, epoch %d, to %d", rec.Topic, rec.Index, rec.Base, rec.Epoch, rec.End)
		return nil
	}
	if len(rec.Payload) == 0 {
		d.out.line(struct {
			Kind      string        `json:"kind"`
			TopicID   string        `json:"topicId"`
			Partition int32         `json:"partition"`
			End       record.Offset `json:"end"`
		}{"synced", rec.Topic.String(), rec.Index, rec.End},
			"    topic id %s partition %d: segments durable up to offset %d", rec.Topic, rec.Index, rec.End)
		return nil
	}
	d.out.line(struct {
		Kind      string        `json:"kind"`
		TopicID   string        `json:"topicId"`
		Partition int32         `json:"partition"`
		Epoch     record.Epoch  `json:"leaderEpoch"`
		Base      record.Offset `json:"base"`
		End       record.Offset `json:"end"`
		Position  int64         `json:"position"`
		Bytes     int           `json:"bytes"`
	}{"journaled", rec.Topic.String(), rec.Index, rec.Epoch, rec.Base, rec.End, rec.Position, len(rec.Payload)},
		"    byte %-8d topic id %s partition %d offsets %d..%d, epoch %d, %s", rec.Position, rec.Topic, rec.Index, rec.Base, rec.End-1, rec.Epoch, bytesText(int64(len(rec.Payload))))
	if !d.batches {
		return nil
	}
	for b, pos := rec.Payload, rec.Position; len(b) > 0; {
		batch, rest, err := record.Next(b)
		if err == nil {
			err = batch.CheckCRC()
		}
		if err != nil {
			return d.damaged(path, pos, err)
		}
		d.batch(batch, pos)
		if err := d.checkRecords(batch); err != nil {
			return d.damaged(path, pos, err)
		}
		b, pos = rest, pos+batch.Size()
	}
	return nil
}

func (d dumper) checkpoint(data []byte) error {
	c, err := journal.DecodeCheckpoint(data)
	if err != nil {
		return err
	}
	d.out.line(struct {
		Kind     string  `json:"kind"`
		Journal  string  `json:"journal"`
		Last     int64   `json:"lastGeneration"`
		Needed   []int64 `json:"needed"`
		Sequence int64   `json:"nextSequence"`
		Synced   int     `json:"partitions"`
		Held     int     `json:"heldPartitions"`
	}{"checkpoint", fmt.Sprintf("%x", c.Journal), c.Last, append([]int64{}, c.Needed...), c.Sequence, len(c.Synced), len(c.Held)},
		"  journal %x\n  needed: files of generations above %d, and %v\n  next group %d, %s, checksum right", c.Journal, c.Last, c.Needed, c.Sequence, plural(len(c.Synced), "partition"))
	for _, p := range c.Held {
		d.out.line(struct {
			Kind      string `json:"kind"`
			TopicID   string `json:"topicId"`
			Partition int32  `json:"partition"`
		}{"held", p.Topic.String(), p.Index}, "  topic id %s partition %d has records in the files %v", p.Topic, p.Index, c.Needed)
	}
	for _, s := range c.Sorted() {
		d.out.line(struct {
			Kind      string        `json:"kind"`
			TopicID   string        `json:"topicId"`
			Partition int32         `json:"partition"`
			Synced    record.Offset `json:"synced"`
		}{"synced", s.Topic.String(), s.Index, c.Synced[s]}, "  topic id %s partition %d durable before offset %d", s.Topic, s.Index, c.Synced[s])
	}
	return nil
}
