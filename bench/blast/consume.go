package blast

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"golang.org/x/sync/errgroup"
)

// Consume says how to read a topic. Each consumer reads all partitions over
// one connection, one request at a time, and begins again at offset 0 where it
// comes to the end.
type Consume struct {
	Topic     Topic
	Consumers int
	MaxBytes  int   // of a partition in a response
	Bytes     int64 // of whole batches, as they are on the wire, by all consumers together

	Once bool            // each consumer ends at the end of the topic
	Wait time.Duration   // that the broker may have for a response
	Done <-chan struct{} // if not nil: ends it before
}

// Run reads until p.Bytes are read, p.Done is closed or with p.Once all was
// read.
func (p Consume) Run(ctx context.Context) (*Result, error) {
	ends, err := p.Topic.Ends(ctx)
	if err != nil {
		return nil, err
	}
	empty := true
	for _, e := range ends {
		empty = empty && e == 0
	}
	if empty {
		return nil, fmt.Errorf("topic %s: nothing to read", p.Topic.Name)
	}
	addr, err := p.Topic.leader(ctx)
	if err != nil {
		return nil, err
	}
	fetchers := make([]*fetcher, p.Consumers)
	for i := range fetchers {
		c, err := dial(ctx, addr)
		if err != nil {
			return nil, err
		}
		defer c.Close()
		fetchers[i] = newFetcher(c, p.Topic, p.MaxBytes)
	}
	var mu sync.Mutex
	total := &Result{}
	var quota atomic.Int64
	quota.Store(p.Bytes)
	began := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	for _, f := range fetchers {
		g.Go(func() error {
			stop := f.c.closeWith(ctx)
			defer stop()
			var r Result
			for quota.Load() > 0 && !ended(p.Done) && !f.over() {
				asked := time.Now()
				before := f.bytes
				if err := f.fetch(p.Wait, nil); err != nil {
					return err
				}
				r.Latency.Record(time.Since(asked), 1)
				r.Requests++
				quota.Add(before - f.bytes)
				for i, o := range f.offsets {
					switch {
					case o < ends[i]:
					case p.Once:
						f.offsets[i] = unasked
					default:
						f.offsets[i] = 0
					}
				}
			}
			r.Bytes = f.bytes
			mu.Lock()
			defer mu.Unlock()
			total.add(&r)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("consume %s: %w", p.Topic.Name, err)
	}
	total.Took = time.Since(began)
	return total, nil
}

func ended(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// fetcher reads all partitions of a topic over one connection.
type fetcher struct {
	c        *conn
	topic    Topic
	maxBytes int
	offsets  []int64 // to fetch next, by partition
	from     int     // partition that the next request names first
	sent     int32
	req      []byte
	bytes    int64 // of whole batches, so far
}

// unasked is the offset of a partition that is left out of requests.
const unasked = -1

// over says whether no partition is left to ask for.
func (f *fetcher) over() bool { return f.asked() == 0 }

func (f *fetcher) asked() int {
	n := 0
	for _, o := range f.offsets {
		if o != unasked {
			n++
		}
	}
	return n
}

func newFetcher(c *conn, t Topic, maxBytes int) *fetcher {
	return &fetcher{c: c, topic: t, maxBytes: maxBytes, offsets: make([]int64, t.Partitions)}
}

const maxFetch = 50 << 20 // of a response, Java's default

// fetch asks once for all partitions, lets the broker wait for a byte for so
// long, and calls arrived (which may be nil) for each whole batch.
func (f *fetcher) fetch(wait time.Duration, arrived func(partition int, base int64)) error {
	be := binary.BigEndian
	f.sent++
	b := appendHead(f.req[:0], 1, 11, f.sent)
	b = be.AppendUint32(b, 0xffffffff) // not a replica
	b = be.AppendUint32(b, uint32(wait.Milliseconds()))
	b = be.AppendUint32(b, 1) // min bytes
	b = be.AppendUint32(b, maxFetch)
	b = append(b, 0)                   // read uncommitted
	b = be.AppendUint32(b, 0)          // no session
	b = be.AppendUint32(b, 0xffffffff) // and none wanted
	b = be.AppendUint32(b, 1)
	b = appendString(b, f.topic.Name)
	b = be.AppendUint32(b, uint32(f.asked()))
	for i := range f.offsets {
		p := (f.from + i) % len(f.offsets)
		if f.offsets[p] == unasked {
			continue
		}
		b = be.AppendUint32(b, uint32(p))
		b = be.AppendUint32(b, 0xffffffff) // leader epoch not known
		b = be.AppendUint64(b, uint64(f.offsets[p]))
		b = be.AppendUint64(b, ^uint64(0)) // no log start offset
		b = be.AppendUint32(b, uint32(f.maxBytes))
	}
	b = be.AppendUint32(b, 0) // nothing forgotten
	b = appendString(b, "")   // no rack
	setSize(b, 0)
	f.req = b
	if f.from++; f.from == len(f.offsets) {
		f.from = 0
	}
	if _, err := f.c.Write(b); err != nil {
		return err
	}
	return f.response(arrived)
}

func (f *fetcher) response(arrived func(int, int64)) error {
	correlation, _, err := f.c.answer()
	if err != nil {
		return err
	}
	if correlation != f.sent {
		return fmt.Errorf("an answer to request %d, want %d", correlation, f.sent)
	}
	b, err := f.c.next(4 + 2 + 4 + 4) // throttle time, error, session, topics
	if err != nil {
		return err
	}
	if err := kerr.ErrorForCode(int16(binary.BigEndian.Uint16(b[4:]))); err != nil {
		return err
	}
	topics := binary.BigEndian.Uint32(b[10:])
	for range topics {
		if b, err = f.c.next(2); err != nil {
			return err
		}
		if err := f.c.skip(int(binary.BigEndian.Uint16(b))); err != nil {
			return err
		}
		if b, err = f.c.next(4); err != nil {
			return err
		}
		for range binary.BigEndian.Uint32(b) {
			if err := f.partition(arrived); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *fetcher) partition(arrived func(int, int64)) error {
	be := binary.BigEndian
	b, err := f.c.next(4 + 2 + 8 + 8 + 8 + 4) // index, error, three offsets, aborted transactions
	if err != nil {
		return err
	}
	p := int(be.Uint32(b))
	if p >= len(f.offsets) {
		return fmt.Errorf("an answer about partition %d", p)
	}
	if err := kerr.ErrorForCode(int16(be.Uint16(b[4:]))); err != nil {
		return fmt.Errorf("partition %d from offset %d: %w", p, f.offsets[p], err)
	}
	if n := int32(be.Uint32(b[30:])); n > 0 {
		return fmt.Errorf("partition %d: %d aborted transactions", p, n)
	}
	if b, err = f.c.next(4 + 4); err != nil { // preferred replica, size
		return err
	}
	left := int(int32(be.Uint32(b[4:])))
	for left >= batchHead {
		if b, err = f.c.next(batchHead); err != nil {
			return err
		}
		base, size, last := int64(be.Uint64(b)), int(be.Uint32(b[8:]))+12, int64(be.Uint32(b[23:]))
		if size > left { // cut at the end of the response
			return f.c.skip(left - batchHead)
		}
		if err := f.c.skip(size - batchHead); err != nil {
			return err
		}
		left -= size
		if base+last < f.offsets[p] { // of a batch in whose middle the fetch began
			continue
		}
		f.offsets[p] = base + last + 1
		f.bytes += int64(size)
		if arrived != nil {
			arrived(p, base)
		}
	}
	return f.c.skip(max(left, 0))
}

// batchHead is what fetch reads of a record batch: base offset, length, leader
// epoch, magic, checksum, attributes and last offset delta.
const batchHead = 27
