package main

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/test/flights"
)

// ledger remembers which input row was acknowledged at which offset of which
// partition: rows[partition][offset] is the row's number.
type ledger struct {
	rows [][]int32
	in   []flights.Flight
}

// acknowledged notes that row is at (partition, offset). Every offset from 0
// on must come exactly once; finish checks that.
func (l *ledger) acknowledged(partition int32, offset int64, row int32) error {
	r := &l.rows[partition]
	for int64(len(*r)) <= offset {
		*r = append(*r, -1)
	}
	if old := (*r)[offset]; old != -1 {
		return fmt.Errorf("partition %d, offset %d: acknowledged for row %d and for row %d", partition, offset, old, row)
	}
	(*r)[offset] = row
	return nil
}

func (l *ledger) finish() error {
	n := 0
	for p, r := range l.rows {
		if o := slices.Index(r, -1); o >= 0 {
			return fmt.Errorf("partition %d, offset %d: no record was acknowledged there, but later ones were", p, o)
		}
		n += len(r)
	}
	if n != len(l.in) {
		return fmt.Errorf("%d rows were produced, %d acknowledged", len(l.in), n)
	}
	return nil
}

// check compares one consumed record with the row it came from.
func (l *ledger) check(rec *kgo.Record, scratch []byte) ([]byte, error) {
	p := l.rows[rec.Partition]
	if rec.Offset < 0 || rec.Offset >= int64(len(p)) {
		return scratch, fmt.Errorf("partition %d, offset %d: a record that nobody produced: %q", rec.Partition, rec.Offset, rec.Value)
	}
	row := &l.in[p[rec.Offset]]
	scratch = row.AppendJSON(scratch[:0])
	if !bytes.Equal(rec.Value, scratch) || !bytes.Equal(rec.Key, row.Key()) || rec.Timestamp.UnixMilli() != row.TimeMs {
		return scratch, fmt.Errorf("partition %d, offset %d differs (row %d of the input):\n  produced %s at %s: %s\n  consumed %s at %s: %s", rec.Partition, rec.Offset, p[rec.Offset],
			row.Key(), time.UnixMilli(row.TimeMs).UTC().Format(time.RFC3339), scratch,
			rec.Key, rec.Timestamp.UTC().Format(time.RFC3339), rec.Value)
	}
	return scratch, nil
}

// replay consumes until every partition p was read over [from[p], to[p]) and
// compares each record. It returns the bytes of keys and values it saw and how
// long that took from the first records on: what a group waits for before
// them is no reading. Each offset must come exactly once and in order.
func (l *ledger) replay(ctx context.Context, cl *kgo.Client, from, to []int64, progress func(records int)) (bytesSeen int64, took time.Duration, err error) {
	next := slices.Clone(from)
	left, done := 0, 0
	for p := range next {
		if next[p] < to[p] {
			left++
		}
	}
	var scratch []byte
	var began time.Time
	for left > 0 {
		fetches := cl.PollRecords(ctx, 50_000)
		if began.IsZero() {
			began = time.Now()
		}
		if err := ctx.Err(); err != nil {
			return 0, 0, fmt.Errorf("replay stopped with offsets %v of %v read: %w", next, to, err)
		}
		for _, e := range fetches.Errors() {
			return 0, 0, fmt.Errorf("%s-%d: %w", e.Topic, e.Partition, e.Err)
		}
		for it := fetches.RecordIter(); !it.Done(); {
			rec := it.Next()
			if rec.Offset >= to[rec.Partition] {
				continue // past what this replay is about
			}
			if rec.Offset != next[rec.Partition] {
				return 0, 0, fmt.Errorf("partition %d: offset %d came where %d was due", rec.Partition, rec.Offset, next[rec.Partition])
			}
			if scratch, err = l.check(rec, scratch); err != nil {
				return 0, 0, err
			}
			bytesSeen += int64(len(rec.Key) + len(rec.Value))
			done++
			if next[rec.Partition]++; next[rec.Partition] == to[rec.Partition] {
				left--
			}
		}
		progress(done)
	}
	return bytesSeen, time.Since(began), nil
}
