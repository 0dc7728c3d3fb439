package commitlog

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/firnlog/firn/broker/disk"
	"github.com/firnlog/firn/record"
)

// KnownBatches is how many batches per producer are remembered to recognise
// duplicates: as many as an idempotent producer may have in flight.
const KnownBatches = 5

// MaxProducers bounds the producers remembered per partition. When it is
// reached, the one not heard of for longest goes.
const MaxProducers = 1 << 16

// Body of .snapshot (kind PROD, base offset = the offset before which
// everything is included):
//
//	┌────────────┬─────────┐
//	│forgotten 8 │ count 4 │ then per producer, the longest silent first:
//	└────────────┴─────────┘
//	┌────┬───────┬─────────────┬────────────────┬──────┬─────────────┬─────────┐
//	│id 8│epoch 2│coord.epoch 4│last timestamp 8│seen 8│ txn start 8 │batches 1│
//	└────┴───────┴─────────────┴────────────────┴──────┴─────────────┴─────────┘
//	┌───────────────┬───────────────┬──────────────┬───────────┐
//	│last sequence 4│ offset delta 4│ last offset 8│timestamp 8│ × batches (0–5), oldest first
//	└───────────────┴───────────────┴──────────────┴───────────┘
const (
	producerHead = 39
	producerItem = 24
)

// Appended is one batch of a producer, as far as duplicates need it.
type Appended struct {
	LastSequence int32
	Delta        int32 // last offset less base offset
	LastOffset   record.Offset
	Timestamp    int64 // greatest of the batch, milliseconds
}

// FirstSequence is the sequence of the batch's first record.
func (a Appended) FirstSequence() int32 {
	return int32((int64(a.LastSequence) - int64(a.Delta)) & math.MaxInt32)
}

// BaseOffset is the offset of the batch's first record.
func (a Appended) BaseOffset() record.Offset { return a.LastOffset - record.Offset(a.Delta) }

// Producer is what a partition knows of one producer.
type Producer struct {
	ID            int64
	Epoch         int16
	CoordEpoch    int32         // of the last marker, -1 for none
	LastTimestamp int64         // of its last record, milliseconds
	Seen          int64         // broker's clock at its last append, milliseconds
	TxnStart      record.Offset // of its open transaction, -1 for none

	batches    [KnownBatches]Appended // oldest first
	known      int
	prev, next *Producer // by Seen; prev was heard of before
}

// Batches gives the last batches with sequences, oldest first; at most
// KnownBatches. Valid until the next append.
func (p *Producer) Batches() []Appended { return p.batches[:p.known] }

// LastSequence is the last sequence number appended, -1 for none in the
// current epoch.
func (p *Producer) LastSequence() int32 {
	if p.known == 0 {
		return -1
	}
	return p.batches[p.known-1].LastSequence
}

func (p *Producer) add(a Appended) {
	if p.known == KnownBatches {
		copy(p.batches[:], p.batches[1:])
		p.known--
	}
	p.batches[p.known] = a
	p.known++
}

// Producers is the state of all producers of one partition after some offset.
// Only the log's writer may use it.
type Producers struct {
	byID map[int64]*Producer
	ring Producer // sentinel: ring.next is the longest silent
	open []txn    // open transactions by first offset
	// forgotten is the greatest producer id whose state was dropped (expired
	// or pushed out), MaxInt64 when part of the history could not be read.
	// Ids are given out ascending, so anything above was never known.
	forgotten int64
	max       int
}

type txn struct {
	id    int64
	start record.Offset
}

// NewProducers gives an empty state.
func NewProducers() *Producers {
	ps := &Producers{byID: map[int64]*Producer{}, forgotten: -1, max: MaxProducers}
	ps.ring.next, ps.ring.prev = &ps.ring, &ps.ring
	return ps
}

// Get gives a producer's state, nil when nothing is known of it.
func (ps *Producers) Get(id int64) *Producer { return ps.byID[id] }

// Len is the number of producers known.
func (ps *Producers) Len() int { return len(ps.byID) }

// Forgotten says whether the producer may have been known once and was
// dropped since; false means that it never wrote here.
func (ps *Producers) Forgotten(id int64) bool { return id <= ps.forgotten }

// ForgetAll says that the history before this state could not be read.
func (ps *Producers) ForgetAll() { ps.forgotten = math.MaxInt64 }

// All calls f with every producer, the longest silent first.
func (ps *Producers) All(f func(*Producer)) {
	for p := ps.ring.next; p != &ps.ring; p = p.next {
		f(p)
	}
}

// FirstOpenTxn is the offset at which the oldest open transaction began, -1
// when none is open.
func (ps *Producers) FirstOpenTxn() record.Offset {
	if len(ps.open) == 0 {
		return -1
	}
	return ps.open[0].start
}

// Apply takes in a batch that was appended. now is the broker's clock in
// milliseconds. For the marker that aborts a transaction it gives that
// transaction and true.
func (ps *Producers) Apply(b record.Batch, now int64) (aborted record.AbortedTxn, ok bool) {
	id := b.ProducerID()
	if id < 0 {
		return record.AbortedTxn{}, false
	}
	p := ps.touch(id, now)
	if b.ProducerEpoch() != p.Epoch {
		p.Epoch, p.known = b.ProducerEpoch(), 0
	}
	p.LastTimestamp = b.MaxTimestamp()
	if b.IsControl() {
		return ps.applyMarker(p, b)
	}
	if b.BaseSequence() >= 0 {
		p.add(Appended{LastSequence: b.LastSequence(), Delta: b.LastOffsetDelta(), LastOffset: b.LastOffset(), Timestamp: b.MaxTimestamp()})
	}
	if b.IsTransactional() && p.TxnStart < 0 {
		p.TxnStart = b.BaseOffset()
		ps.open = append(ps.open, txn{id, p.TxnStart})
	}
	return record.AbortedTxn{}, false
}

// Control records: key is version 2, type 2 (0 abort, 1 commit); value is
// version 2, coordinator epoch 4 (KIP-98).
const maxControlBytes = 64 << 10

func (ps *Producers) applyMarker(p *Producer, b record.Batch) (record.AbortedTxn, bool) {
	kind, epoch := int16(-1), p.CoordEpoch
	_ = b.EachRecord(maxControlBytes, func(r *record.Record) bool { // a marker that cannot be read ends nothing
		if len(r.Key) >= 4 {
			kind = int16(binary.BigEndian.Uint16(r.Key[2:]))
		}
		if len(r.Value) >= 6 {
			epoch = int32(binary.BigEndian.Uint32(r.Value[2:]))
		}
		return false
	})
	if kind != 0 && kind != 1 {
		return record.AbortedTxn{}, false
	}
	p.CoordEpoch = max(p.CoordEpoch, epoch)
	if p.TxnStart < 0 {
		return record.AbortedTxn{}, false
	}
	done := record.AbortedTxn{ProducerID: p.ID, FirstOffset: p.TxnStart, LastOffset: b.LastOffset()}
	p.TxnStart = -1
	ps.open = slices.DeleteFunc(ps.open, func(t txn) bool { return t.id == p.ID })
	return done, kind == 0
}

// touch finds or makes a producer and moves it to the ring's end.
func (ps *Producers) touch(id, now int64) *Producer {
	p := ps.byID[id]
	if p == nil {
		for len(ps.byID) >= ps.max && ps.evict() {
		}
		p = &Producer{ID: id, Epoch: -1, CoordEpoch: -1, LastTimestamp: -1, TxnStart: -1}
		ps.byID[id] = p
		producersKnown.Add(1)
	} else {
		p.prev.next, p.next.prev = p.next, p.prev
	}
	last := ps.ring.prev
	p.prev, p.next = last, &ps.ring
	last.next, ps.ring.prev = p, p
	p.Seen = now
	return p
}

// evict drops the longest silent producer without an open transaction.
func (ps *Producers) evict() bool {
	for p := ps.ring.next; p != &ps.ring; p = p.next {
		if p.TxnStart < 0 {
			ps.drop(p)
			producersEvicted.Inc()
			return true
		}
	}
	return false
}

func (ps *Producers) drop(p *Producer) {
	p.prev.next, p.next.prev = p.next, p.prev
	delete(ps.byID, p.ID)
	ps.forgotten = max(ps.forgotten, p.ID)
	producersKnown.Add(-1)
}

// Expire drops producers without an open transaction that were not heard of
// since before (milliseconds, broker's clock) and gives their number.
func (ps *Producers) Expire(before int64) int {
	n := 0
	for p := ps.ring.next; p != &ps.ring && p.Seen < before; {
		next := p.next
		if p.TxnStart < 0 {
			ps.drop(p)
			n++
		}
		p = next
	}
	return n
}

// release gives the gauge back what this state counted.
func (ps *Producers) release() { producersKnown.Add(-int64(len(ps.byID))) }

func (ps *Producers) encode(at record.Offset) []byte {
	b := disk.BeginFrame(kindProducers, at, 12+len(ps.byID)*(producerHead+KnownBatches*producerItem))
	b = binary.BigEndian.AppendUint64(b, uint64(ps.forgotten))
	b = binary.BigEndian.AppendUint32(b, uint32(len(ps.byID)))
	ps.All(func(p *Producer) {
		b = binary.BigEndian.AppendUint64(b, uint64(p.ID))
		b = binary.BigEndian.AppendUint16(b, uint16(p.Epoch))
		b = binary.BigEndian.AppendUint32(b, uint32(p.CoordEpoch))
		b = binary.BigEndian.AppendUint64(b, uint64(p.LastTimestamp))
		b = binary.BigEndian.AppendUint64(b, uint64(p.Seen))
		b = binary.BigEndian.AppendUint64(b, uint64(p.TxnStart))
		b = append(b, byte(p.known))
		for _, a := range p.Batches() {
			b = binary.BigEndian.AppendUint32(b, uint32(a.LastSequence))
			b = binary.BigEndian.AppendUint32(b, uint32(a.Delta))
			b = binary.BigEndian.AppendUint64(b, uint64(a.LastOffset))
			b = binary.BigEndian.AppendUint64(b, uint64(a.Timestamp))
		}
	})
	return disk.EndFrame(b)
}

// DecodeSnapshot reads a whole .snapshot file: the offset before which
// everything is included, and the state. Errors wrap ErrFormat.
func DecodeSnapshot(b []byte) (record.Offset, *Producers, error) {
	at, body, err := disk.OpenFrame[record.Offset](kindProducers, b)
	if err != nil {
		return 0, nil, err
	}
	bad := fmt.Errorf("%w: producer snapshot at offset %d ends early", ErrFormat, at)
	if len(body) < 12 {
		return 0, nil, bad
	}
	ps := NewProducers()
	forgotten, n := int64(binary.BigEndian.Uint64(body)), int(binary.BigEndian.Uint32(body[8:]))
	body = body[12:]
	for range n {
		if len(body) < producerHead || body[producerHead-1] > KnownBatches || len(body) < producerHead+int(body[producerHead-1])*producerItem {
			ps.release()
			return 0, nil, bad
		}
		p := ps.touch(int64(binary.BigEndian.Uint64(body)), int64(binary.BigEndian.Uint64(body[22:])))
		p.Epoch = int16(binary.BigEndian.Uint16(body[8:]))
		p.CoordEpoch = int32(binary.BigEndian.Uint32(body[10:]))
		p.LastTimestamp = int64(binary.BigEndian.Uint64(body[14:]))
		if p.TxnStart = record.Offset(binary.BigEndian.Uint64(body[30:])); p.TxnStart >= 0 {
			ps.open = append(ps.open, txn{p.ID, p.TxnStart})
		}
		known := int(body[producerHead-1])
		body = body[producerHead:]
		for range known {
			p.add(Appended{
				LastSequence: int32(binary.BigEndian.Uint32(body)),
				Delta:        int32(binary.BigEndian.Uint32(body[4:])),
				LastOffset:   record.Offset(binary.BigEndian.Uint64(body[8:])),
				Timestamp:    int64(binary.BigEndian.Uint64(body[16:])),
			})
			body = body[producerItem:]
		}
	}
	if len(body) != 0 {
		ps.release()
		return 0, nil, fmt.Errorf("%w: %d bytes follow the producers at offset %d", ErrFormat, len(body), at)
	}
	ps.forgotten = forgotten
	slices.SortFunc(ps.open, func(a, b txn) int { return int(a.start - b.start) })
	return at, ps, nil
}
