package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strconv"
	"unicode/utf8"

	"github.com/firnlog/firn/broker/commitlog"
	"github.com/firnlog/firn/cache"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering"
)

const (
	maxSmallFile  = 256 << 20 // bytes: of files that are read whole
	maxDumpBatch  = 1 << 30   // bytes: what a damaged length can make us read
	maxDumpRecord = 1 << 30   // bytes: of one batch's records, decompressed
)

// dumper decodes files one after the other.
type dumper struct {
	out              *dumpOutput
	batches, records bool
}

// damage is what is wrong with a file, and where.
type damage struct {
	Kind     string `json:"kind"` // "damage"
	File     string `json:"file"`
	Position int64  `json:"position"` // byte in the file, -1 where the check covers all of it
	Reason   string `json:"reason"`
}

func (d *damage) Error() string {
	if d.Position < 0 {
		return fmt.Sprintf("%s is damaged: %s", d.File, d.Reason)
	}
	return fmt.Sprintf("%s is damaged at byte %d: %s", d.File, d.Position, d.Reason)
}

func (d dumper) damaged(path string, pos int64, err error) error {
	dm := &damage{"damage", path, pos, err.Error()}
	at := ""
	if pos >= 0 {
		at = fmt.Sprintf(" at byte %d", pos)
	}
	d.out.line(dm, "DAMAGED%s: %v", at, err)
	return dm
}

// file dumps one file. Its error says what is wrong with it.
func (d dumper) file(ctx context.Context, path string) error {
	f, size, kind, err := openDump(path)
	if err != nil {
		return err
	}
	defer f.Close()
	d.out.line(struct {
		Kind   string   `json:"kind"`
		File   string   `json:"file"`
		Format fileKind `json:"format"`
		Bytes  int64    `json:"bytes"`
	}{"file", path, kind, size}, "%s: %s, %s", path, kind, plural(size, "byte"))
	switch kind {
	case kindSegment:
		_, err = d.batchRun(ctx, path, f, 0, size, -1)
		return err
	case kindObject:
		return d.object(ctx, path, f, size)
	case kindJournal:
		return d.journal(ctx, path, f, size)
	case kindChunk:
		h, err := cache.CheckChunk(f, size, nil)
		if err != nil {
			return d.damaged(path, -1, err)
		}
		d.out.line(struct {
			Kind string `json:"kind"`
			cache.ChunkHeader
		}{"chunk", h}, "  object %s\n  bytes  %d..%d of it (%s)\n  crc32c %08x, right", h.Object, h.Offset, h.Offset+h.Length, bytesText(h.Length), h.Sum)
		return nil
	}
	if size > maxSmallFile {
		return d.damaged(path, -1, fmt.Errorf("it is larger than any %s", kind))
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(io.NewSectionReader(f, 0, size), data); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if err := d.small(kind, data); err != nil {
		return d.damaged(path, -1, err)
	}
	return nil
}

// batchRun dumps record batches in [pos, pos+size) and checks each. first is
// the offset that the first must have, -1 for any. It gives the end offset.
func (d dumper) batchRun(ctx context.Context, path string, r io.ReaderAt, pos, size int64, first record.Offset) (record.Offset, error) {
	var bad error
	note := func(at int64, err error) {
		if e := d.damaged(path, at, err); bad == nil {
			bad = e
		}
	}
	next, count, total, limit := first, 0, int64(0), pos+size
	var buf []byte
	for pos < limit && ctx.Err() == nil {
		b, err := readDumpBatch(r, pos, limit, &buf)
		if err != nil {
			note(pos, err)
			break
		}
		d.batch(b, pos)
		if err := b.CheckCRC(); err != nil {
			note(pos, err)
		} else if err := d.checkRecords(b); err != nil {
			note(pos, err)
		}
		if b.BaseOffset() < next {
			note(pos, fmt.Errorf("base offset %d is below %d, where the batch before ends", b.BaseOffset(), next))
		}
		next = b.LastOffset() + 1
		pos += int64(len(b))
		count++
		total += int64(b.NumRecords())
	}
	if ctx.Err() != nil {
		return next, ctx.Err()
	}
	d.out.line(struct {
		Kind    string        `json:"kind"`
		Batches int           `json:"batches"`
		Records int64         `json:"records"`
		End     record.Offset `json:"end"`
		OK      bool          `json:"ok"`
	}{"summary", count, total, next, bad == nil}, "  %d batches, %s, next offset %s, %s", count, plural(total, "record"), known(int64(next)), rightOrNot(bad))
	return next, bad
}

func rightOrNot(bad error) string {
	if bad != nil {
		return "damaged"
	}
	return "all checksums right"
}

// readDumpBatch reads the batch at pos, which must end by limit.
func readDumpBatch(r io.ReaderAt, pos, limit int64, buf *[]byte) (record.Batch, error) {
	var head [record.HeaderSize]byte
	n, err := r.ReadAt(head[:min(int64(len(head)), limit-pos)], pos)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if n >= 8 && string(head[:8]) == "FIRNOBJH" {
		return nil, errors.New("the footer of an object begins here: this is an object whose trailer is damaged")
	}
	h, err := record.ParseHeader(head[:n])
	if errors.Is(err, record.ErrShort) {
		return nil, fmt.Errorf("%s are no whole batch (a torn tail, or being written now)", plural(limit-pos, "byte"))
	}
	if err != nil {
		return nil, err
	}
	if h.Size() > limit-pos {
		return nil, fmt.Errorf("a batch of %d bytes begins here, but only %d are left (a torn tail, or being written now)", h.Size(), limit-pos)
	}
	if h.Size() > maxDumpBatch {
		return nil, fmt.Errorf("a batch of %d bytes is not possible", h.Size())
	}
	if int64(cap(*buf)) < h.Size() {
		*buf = make([]byte, h.Size())
	}
	b := (*buf)[:h.Size()]
	if _, err := r.ReadAt(b, pos); err != nil {
		return nil, err
	}
	return record.Batch(b), nil
}

func (d dumper) batch(b record.Batch, pos int64) {
	flags := ""
	for _, f := range []struct {
		on   bool
		name string
	}{{b.IsControl(), " control"}, {b.IsTransactional(), " transactional"}, {b.IsLogAppendTime(), " log-append-time"}, {b.HasDeleteHorizon(), " delete-horizon"}} {
		if f.on {
			flags += f.name
		}
	}
	producer := ""
	if b.ProducerID() >= 0 {
		producer = fmt.Sprintf(" producer %d/%d sequence %d..%d", b.ProducerID(), b.ProducerEpoch(), b.BaseSequence(), b.LastSequence())
	}
	d.out.line(struct {
		Kind           string        `json:"kind"`
		Position       int64         `json:"position"`
		Bytes          int64         `json:"bytes"`
		BaseOffset     record.Offset `json:"baseOffset"`
		LastOffset     record.Offset `json:"lastOffset"`
		Records        int32         `json:"records"`
		Codec          string        `json:"compression"`
		Epoch          record.Epoch  `json:"leaderEpoch"`
		FirstTimestamp int64         `json:"firstTimestamp"`
		MaxTimestamp   int64         `json:"maxTimestamp"`
		ProducerID     int64         `json:"producerId"`
		ProducerEpoch  int16         `json:"producerEpoch"`
		BaseSequence   int32         `json:"baseSequence"`
		Control        bool          `json:"control"`
		Transactional  bool          `json:"transactional"`
		AppendTime     bool          `json:"logAppendTime"`
		CRC            string        `json:"crc32c"`
	}{"batch", pos, b.Size(), b.BaseOffset(), b.LastOffset(), b.NumRecords(), b.Codec().String(), b.LeaderEpoch(), b.FirstTimestamp(), b.MaxTimestamp(),
		b.ProducerID(), b.ProducerEpoch(), b.BaseSequence(), b.IsControl(), b.IsTransactional(), b.IsLogAppendTime(), fmt.Sprintf("%08x", b.CRC())},
		"  byte %-10d offsets %d..%d, %s, %s %s, epoch %d, time %s..%s%s%s", pos, b.BaseOffset(), b.LastOffset(), plural(b.NumRecords(), "record"),
		bytesText(b.Size()), b.Codec(), b.LeaderEpoch(), timeText(b.FirstTimestamp()), timeText(b.MaxTimestamp()), producer, flags)
}

type dumpHeader struct {
	Key   string `json:"key"`
	Value any    `json:"value"`
}

// checkRecords reads every record of a batch whose checksum is right, and
// prints them if that is wanted.
func (d dumper) checkRecords(b record.Batch) error {
	return b.EachRecord(maxDumpRecord, func(r *record.Record) bool {
		if !d.records {
			return true
		}
		headers := []dumpHeader{}
		text := ""
		for _, h := range r.Headers {
			headers = append(headers, dumpHeader{h.Key, jsonText(h.Value)})
			text += fmt.Sprintf(" %s=%s", h.Key, short(h.Value))
		}
		d.out.line(struct {
			Kind      string        `json:"kind"`
			Offset    record.Offset `json:"offset"`
			Timestamp int64         `json:"timestamp"`
			Key       any           `json:"key"`
			Value     any           `json:"value"`
			Headers   []dumpHeader  `json:"headers"`
		}{"record", r.Offset, r.Timestamp, jsonText(r.Key), jsonText(r.Value), headers},
			"    %d  %s  key %s  value %s%s", r.Offset, timeText(r.Timestamp), short(r.Key), short(r.Value), text)
		return true
	})
}

// jsonText gives bytes as a string, null, or {"base64": …} when they are not
// text.
func jsonText(b []byte) any {
	text, b64 := textOrBase64(b)
	if b64 != nil {
		return map[string]string{"base64": *b64}
	}
	return json.RawMessage(text)
}

// short gives the beginning of bytes in quotes.
func short(b []byte) string {
	const most = 120
	switch {
	case b == nil:
		return "null"
	case len(b) <= most:
		return strconv.Quote(string(b))
	}
	cut := b[:most]
	for i := 0; i < utf8.UTFMax && len(cut) > 0 && !utf8.Valid(cut); i++ {
		cut = cut[:len(cut)-1]
	}
	return fmt.Sprintf("%s… (%s)", strconv.Quote(string(cut)), plural(len(b), "byte"))
}

// object dumps an object of runs and compares every run with its checksums.
func (d dumper) object(ctx context.Context, path string, r io.ReaderAt, size int64) error {
	f, err := tiering.ReadFooter(r, size)
	if err != nil {
		return d.damaged(path, -1, err)
	}
	d.out.line(struct {
		Kind      string           `json:"kind"`
		ID        tiering.ObjectID `json:"id"`
		Cluster   string           `json:"cluster"`
		CreatedMs int64            `json:"createdMs"`
		Block     int              `json:"blockBytes"`
		DataLen   int64            `json:"dataBytes"`
		Runs      int              `json:"runs"`
	}{"object", f.ID, f.Cluster, f.CreatedMs, f.Block, f.DataLen, len(f.Runs)},
		"  id %s of cluster %s, made %s\n  %s in %s, checksums every %s", f.ID, f.Cluster, timeText(f.CreatedMs), bytesText(f.DataLen), plural(len(f.Runs), "run"), bytesText(int64(f.Block)))
	var bad error
	for _, run := range f.Runs {
		d.run(run)
		if err := checkRun(r, run); err != nil {
			pos := run.Position
			if at, ok := errors.AsType[placedError](err); ok {
				pos = at.pos
			}
			bad = errors.Join(bad, d.damaged(path, pos, err))
			continue
		}
		if d.batches {
			if _, err := d.batchRun(ctx, path, r, run.Position, run.Length, run.Base); err != nil {
				bad = errors.Join(bad, err)
			}
		}
	}
	return bad
}

func (d dumper) run(r *tiering.Run) {
	_, producers, _ := commitlog.DecodeSnapshot(r.Producers)
	known := 0
	if producers != nil {
		producers.All(func(*commitlog.Producer) { known++ })
	}
	d.out.line(struct {
		Kind         string              `json:"kind"`
		Topic        string              `json:"topic"`
		TopicID      string              `json:"topicId"`
		Partition    record.PartitionID  `json:"partition"`
		Base         record.Offset       `json:"base"`
		End          record.Offset       `json:"end"`
		Position     int64               `json:"position"`
		Bytes        int64               `json:"bytes"`
		Batches      int64               `json:"batches"`
		Records      int64               `json:"records"`
		MaxTimestamp int64               `json:"maxTimestamp"`
		Epochs       []record.EpochStart `json:"epochs"`
		Aborted      []record.AbortedTxn `json:"aborted"`
		Producers    int                 `json:"producers"`
		IndexEntries int                 `json:"indexEntries"`
		TimeEntries  int                 `json:"timeEntries"`
	}{"run", r.Topic, r.TopicID.String(), r.Partition, r.Base, r.End, r.Position, r.Length, r.Batches, r.Records, r.MaxTimestamp, r.Epochs, r.Aborted, known, len(r.Offsets), len(r.Times)},
		"  byte %-10d %s-%d offsets %d..%d, %s in %d batches, %s, up to %s, epochs %s, %s, %s, index of %d and %d",
		r.Position, r.Topic, r.Partition, r.Base, r.End-1, plural(r.Records, "record"), r.Batches, bytesText(r.Length), timeText(r.MaxTimestamp),
		epochsText(r.Epochs), plural(known, "producer"), plural(len(r.Aborted), "aborted transaction"), len(r.Offsets), len(r.Times))
}

func epochsText(epochs []record.EpochStart) string {
	s := ""
	for i, e := range epochs {
		if i > 0 {
			s += ", "
		}
		s += fmt.Sprintf("%d from %d", e.Epoch, e.Start)
	}
	if s == "" {
		return "none"
	}
	return s
}

// placedError is an error at a byte of a file.
type placedError struct {
	pos int64
	err error
}

func (p placedError) Error() string { return p.err.Error() }
func (p placedError) Unwrap() error { return p.err }

// checkRun compares a run with its checksum, and when that is wrong looks for
// the place.
func checkRun(r io.ReaderAt, run *tiering.Run) error {
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	if n, err := io.Copy(sum, io.NewSectionReader(r, run.Position, run.Length)); err != nil || n != run.Length {
		return placedError{run.Position + n, fmt.Errorf("the run cannot be read whole: %w", errors.Join(err, io.ErrUnexpectedEOF))}
	}
	if sum.Sum32() == run.Sum {
		return nil
	}
	var buf []byte
	for pos, limit := run.Position, run.Position+run.Length; pos < limit; {
		b, err := readDumpBatch(r, pos, limit, &buf)
		if err == nil {
			err = b.CheckCRC()
		}
		if err != nil {
			return placedError{pos, err}
		}
		pos += int64(len(b))
	}
	// Offsets and epochs of batches are not covered by the batches' checksums.
	return placedError{run.Position, fmt.Errorf("run of %s-%d: stored crc32c %08x, computed %08x, though each batch for itself is right: an offset or an epoch was changed", run.Topic, run.Partition, run.Sum, sum.Sum32())}
}
