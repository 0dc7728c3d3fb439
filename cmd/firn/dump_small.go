package main

import (
	"fmt"

	"github.com/firnlog/firn/broker/commitlog"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering"
)

// small dumps a file that is decoded whole and has one checksum.
func (d dumper) small(kind fileKind, data []byte) error {
	switch kind {
	case kindIndex:
		base, entries, err := commitlog.DecodeOffsetIndex(data)
		if err != nil {
			return err
		}
		d.head("index", base, len(entries))
		for _, e := range entries {
			d.out.line(struct {
				Kind     string        `json:"kind"`
				Offset   record.Offset `json:"offset"`
				Position int64         `json:"position"`
			}{"entry", e.Offset, e.Position}, "  offset %d at byte %d", e.Offset, e.Position)
		}
	case kindTimeIndex:
		base, sum, entries, err := commitlog.DecodeTimeIndex(data)
		if err != nil {
			return err
		}
		d.out.line(struct {
			Kind         string        `json:"kind"`
			Base         record.Offset `json:"base"`
			MaxTimestamp int64         `json:"maxTimestamp"`
			MaxTSOffset  record.Offset `json:"maxTimestampOffset"`
			Aborted      int           `json:"abortedTransactions"`
			Entries      int           `json:"entries"`
		}{"timeindex", base, sum.MaxTimestamp, sum.MaxTSOffset, sum.Aborted, len(entries)},
			"  segment from offset %d, latest time %s at offset %d, %s\n  %d entries, checksum right", base, timeText(sum.MaxTimestamp), sum.MaxTSOffset, plural(sum.Aborted, "aborted transaction"), len(entries))
		for _, e := range entries {
			d.out.line(struct {
				Kind      string        `json:"kind"`
				Timestamp int64         `json:"timestamp"`
				Offset    record.Offset `json:"offset"`
			}{"entry", e.Timestamp, e.Offset}, "  up to %s through offset %d", timeText(e.Timestamp), e.Offset)
		}
	case kindTxnIndex:
		base, txns, err := commitlog.DecodeTxnIndex(data)
		if err != nil {
			return err
		}
		d.head("txnindex", base, len(txns))
		for _, t := range txns {
			d.out.line(struct {
				Kind        string        `json:"kind"`
				ProducerID  int64         `json:"producerId"`
				FirstOffset record.Offset `json:"firstOffset"`
				LastOffset  record.Offset `json:"lastOffset"`
			}{"aborted", t.ProducerID, t.FirstOffset, t.LastOffset}, "  producer %d aborted what it wrote in %d..%d", t.ProducerID, t.FirstOffset, t.LastOffset)
		}
	case kindSnapshot:
		return d.snapshot(data)
	case kindEpochs:
		epochs, err := commitlog.DecodeEpochs(data)
		if err != nil {
			return err
		}
		for _, e := range epochs {
			d.out.line(struct {
				Kind  string        `json:"kind"`
				Epoch record.Epoch  `json:"epoch"`
				Start record.Offset `json:"start"`
			}{"epoch", e.Epoch, e.Start}, "  epoch %d from offset %d", e.Epoch, e.Start)
		}
	case kindMeta:
		return d.meta(data)
	case kindCheckpoint:
		return d.checkpoint(data)
	case kindManifest:
		m, err := tiering.DecodeManifest(data)
		if err != nil {
			return err
		}
		d.out.line(struct {
			Kind    string `json:"kind"`
			TopicID string `json:"topicId"`
			*tiering.Manifest
		}{"manifest", m.TopicID.String(), m}, "  %s-%d (topic id %s) of cluster %s, generation %d\n  %d entries, checksum right", m.Topic, m.Partition, m.TopicID, m.Cluster, m.Generation, len(m.Entries))
		d.entries(m.Entries)
	case kindPointer:
		return d.pointer(data)
	default:
		return fmt.Errorf("no decoder for a %s", kind)
	}
	return nil
}

func (d dumper) head(kind string, base record.Offset, entries int) {
	d.out.line(struct {
		Kind    string        `json:"kind"`
		Base    record.Offset `json:"base"`
		Entries int           `json:"entries"`
	}{kind, base, entries}, "  segment from offset %d, %d entries, checksum right", base, entries)
}

func (d dumper) snapshot(data []byte) error {
	at, producers, err := commitlog.DecodeSnapshot(data)
	if err != nil {
		return err
	}
	d.out.line(struct {
		Kind      string        `json:"kind"`
		At        record.Offset `json:"at"`
		Producers int           `json:"producers"`
	}{"snapshot", at, producersOf(producers)}, "  %s, as of before offset %d, checksum right", plural(producersOf(producers), "producer"), at)
	producers.All(func(p *commitlog.Producer) {
		type batch struct {
			FirstSequence int32         `json:"firstSequence"`
			LastSequence  int32         `json:"lastSequence"`
			BaseOffset    record.Offset `json:"baseOffset"`
			LastOffset    record.Offset `json:"lastOffset"`
			Timestamp     int64         `json:"timestamp"`
		}
		batches, text := []batch{}, ""
		for _, b := range p.Batches() {
			batches = append(batches, batch{b.FirstSequence(), b.LastSequence, b.BaseOffset(), b.LastOffset, b.Timestamp})
			text += fmt.Sprintf("\n    sequence %d..%d at offsets %d..%d", b.FirstSequence(), b.LastSequence, b.BaseOffset(), b.LastOffset)
		}
		txn := ""
		if p.TxnStart >= 0 {
			txn = fmt.Sprintf(", transaction open from offset %d", p.TxnStart)
		}
		d.out.line(struct {
			Kind          string        `json:"kind"`
			ProducerID    int64         `json:"producerId"`
			Epoch         int16         `json:"epoch"`
			CoordEpoch    int32         `json:"coordinatorEpoch"`
			LastTimestamp int64         `json:"lastTimestamp"`
			TxnStart      record.Offset `json:"transactionStart"`
			Batches       []batch       `json:"batches"`
		}{"producer", p.ID, p.Epoch, p.CoordEpoch, p.LastTimestamp, p.TxnStart, batches},
			"  producer %d epoch %d, last record's time %s%s%s", p.ID, p.Epoch, timeText(p.LastTimestamp), txn, text)
	})
	return nil
}

func producersOf(ps *commitlog.Producers) int {
	n := 0
	ps.All(func(*commitlog.Producer) { n++ })
	return n
}

func (d dumper) meta(data []byte) error {
	m, err := commitlog.DecodeMeta(data)
	if err != nil {
		return err
	}
	state := "in use, or not closed properly"
	if m.Emptying {
		state = "being emptied: no other file here counts"
	}
	if m.Clean {
		state = fmt.Sprintf("closed cleanly at offset %d, active segment %d of %s", m.End, m.ActiveBase, plural(m.ActiveSize, "byte"))
	}
	d.out.line(struct {
		Kind          string        `json:"kind"`
		TopicID       string        `json:"topicId"`
		LogStart      record.Offset `json:"logStart"`
		LocalBase     record.Offset `json:"localBase"`
		RecoveryPoint record.Offset `json:"recoveryPoint"`
		Clean         bool          `json:"clean"`
		End           record.Offset `json:"end"`
		ActiveBase    record.Offset `json:"activeBase"`
		ActiveSize    int64         `json:"activeSize"`
	}{"meta", m.TopicID.String(), m.LogStart, m.LocalBase, m.RecoveryPoint, m.Clean, m.End, m.ActiveBase, m.ActiveSize},
		"  topic id %s\n  log start %d, local files from %d, synced before offset %d\n  %s\n  checksum right", m.TopicID, m.LogStart, m.LocalBase, m.RecoveryPoint, state)
	return nil
}

func (d dumper) pointer(data []byte) error {
	p, err := tiering.DecodePointer(data)
	if err != nil {
		return err
	}
	manifest := "no manifest"
	if !p.Manifest.IsZero() {
		manifest = fmt.Sprintf("manifest %s (%s) up to offset %d", p.Manifest, tiering.ObjectKey(p.Cluster, p.Manifest), p.ManifestEnd)
	}
	d.out.line(struct {
		Kind    string `json:"kind"`
		TopicID string `json:"topicId"`
		*tiering.Pointer
	}{"pointer", p.TopicID.String(), p}, "  %s-%d (topic id %s) of cluster %s, generation %d\n  tiered offsets %d..%d, %s\n  tail of %d entries, checksum right",
		p.Topic, p.Partition, p.TopicID, p.Cluster, p.Generation, p.Start, p.End, manifest, len(p.Tail))
	d.entries(p.Tail)
	return nil
}

// entries lists a manifest's or pointer's entries for people; in JSON they
// are part of the object before.
func (d dumper) entries(entries []tiering.Entry) {
	if d.out.json {
		return
	}
	for _, e := range entries {
		d.out.line(nil, "  offsets %d..%d in object %s, bytes %d..%d, index at %d, epoch %d, up to %s", e.Base, e.End-1, e.Object, e.Position, e.Position+e.Length, e.IndexPos, e.Epoch, timeText(e.MaxTimestamp))
	}
}
