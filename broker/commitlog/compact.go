package commitlog

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"time"

	"github.com/firnlog/firn/record"
)

// ErrKeyMap says that a single batch has more keys than the map of keys may
// hold, so that compaction would never get past it.
var ErrKeyMap = errors.New("commitlog: the memory for keys is too small for one batch")

// ErrStale says that a segment that is to be compacted went meanwhile.
var ErrStale = errors.New("commitlog: segments were deleted while they were compacted")

// Dirt says what there is to compact.
type Dirt struct {
	From, To record.Offset // what compaction would look at: sealed, whole segments, not compacted yet
	Clean    int64         // bytes of the segments before From
	Dirty    int64         // bytes of the segments that hold [From, To)
	Oldest   int64         // least of the dirty segments' first timestamps (milliseconds), -1 for none
}

// Compaction is one request to compact.
type Compaction struct {
	Now             int64         // milliseconds
	Limit           record.Offset // nothing at or above it is touched: the last stable offset
	Newest          int64         // a dirty segment with a record above this time (milliseconds), and all after it, are left alone
	DeleteRetention time.Duration // from the first compaction of a tombstone or marker to its removal
	KeyBytes        int64         // memory for keys
	// Pace is called after so many bytes were read or written. It may wait;
	// an error ends the compaction, whose finished groups stay.
	Pace func(bytes int) error
	// Turn runs f, which does no I/O, when nobody else calls a writing method.
	Turn func(f func() error) error
}

// Compacted says what a compaction did.
type Compacted struct {
	End     record.Offset // of every key below it only the latest record is left
	Read    int64         // bytes, twice read ones twice
	Written int64         // bytes
	Kept    int64         // records
	Removed int64         // records
}

// Dirt looks for what Compact could do, with its Limit and Newest. For Oldest,
// which is left out unless it is asked for, one header of every dirty segment
// is read. A *CorruptError says that a segment's summary could not be made.
func (l *Log) Dirt(limit record.Offset, newest int64, oldest bool) (Dirt, error) {
	segs, d, err := l.cleanable(limit, newest)
	if err != nil || !oldest {
		return d, err
	}
	for _, s := range segs {
		if record.Offset(s.end.Load()) <= d.From {
			continue
		}
		ts, err := s.firstTimestamp()
		if errors.Is(err, errGone) {
			continue
		}
		if err != nil {
			return d, err
		}
		if ts > 0 && (d.Oldest < 0 || ts < d.Oldest) {
			d.Oldest = ts
		}
	}
	return d, nil
}

// cleanable gives the segments that compaction may rewrite, the oldest first.
func (l *Log) cleanable(limit record.Offset, newest int64) ([]*segment, Dirt, error) {
	l.metaMu.Lock()
	from, synced := l.meta.Compacted, l.meta.RecoveryPoint
	l.metaMu.Unlock()
	if start := l.Start(); from < start || from > l.End() {
		from = start // deleted, or lost with the log's tail: nothing is known
	}
	d := Dirt{From: from, To: from, Oldest: -1}
	all := *l.segs.Load()
	all = all[:len(all)-1]
	for len(all) > 0 && record.Offset(all[0].end.Load()) <= l.Start() {
		all = all[1:] // about to be deleted
	}
	for i, s := range all {
		if err := s.damage.err(); err != nil {
			return nil, d, err
		}
		end := record.Offset(s.end.Load())
		if s.live.Load() != nil || end > min(limit, synced) {
			return all[:i], d, nil // its small files are still being written, or somebody may not read it yet
		}
		if end <= from {
			d.Clean += s.size.Load()
			continue
		}
		seg, modified, err := s.describe()
		if errors.Is(err, errGone) {
			return nil, Dirt{From: from, To: from, Oldest: -1}, nil // deleted meanwhile: what is left shows next time
		}
		if err == nil {
			err = s.damage.err() // which describe may have found
		}
		if err != nil {
			return nil, d, err
		}
		if ts := seg.MaxTimestamp; ts > newest || ts < 0 && modified.UnixMilli() > newest {
			return all[:i], d, nil
		}
		d.Dirty += s.size.Load()
		d.To = end
	}
	return all, d, nil
}

// firstTimestamp is the greatest timestamp of the first batch, -1 for none.
func (s *segment) firstTimestamp() (int64, error) {
	f, err := s.acquire()
	if err != nil {
		return -1, err
	}
	defer f.Release()
	ts := int64(-1)
	err = s.walk(f.OS(), 0, s.size.Load(), func(h record.Batch, _ int64) bool {
		ts = h.MaxTimestamp()
		return false
	})
	return ts, err
}

// compactor is the work of one Compact.
type compactor struct {
	l    *Log
	c    Compaction
	keys *keyMap
	upto record.Offset // what keys knows; records from there on stay
	txns *txnFilter
	last map[int64]producerLast
	buf  []byte
	done Compacted
}

// producerLast is what compaction must not lose of a producer: the batch with
// its last sequence, or its last marker, which has its epoch.
type producerLast struct {
	offset record.Offset // of its last record with a sequence, -1 for none
	epoch  int16
}

// Compact rewrites sealed segments so that below Compacted.End every key has
// its latest record only, by the rules of Kafka's log cleaner (see
// docs/architecture.md). Records keep their offsets, and what compaction does
// not remove keeps its bytes. Neighbours that have become small are joined,
// up to Config.SegmentBytes. Readers are not disturbed. One Compact at a time.
//
// After an error the log holds what it held, or the segments finished so far
// are compacted. *CorruptError: a batch is damaged. ErrKeyMap: see there.
// ErrFull: there is no room for the rewritten segment.
func (l *Log) Compact(c Compaction) (Compacted, error) {
	if err := l.usable(); err != nil {
		return Compacted{}, err
	}
	cuts := l.cuts.Load()
	segs, d, err := l.cleanable(c.Limit, c.Newest)
	if err != nil || d.From >= d.To {
		return Compacted{End: d.From}, err
	}
	k := &compactor{l: l, c: c, done: Compacted{End: d.From}}
	defer k.account()
	if err := k.mapKeys(segs, d); err != nil {
		return k.done, err
	}
	n := floorSegment(segs, k.upto-1) + 1
	if err := k.begin(segs[:n]); err != nil {
		return k.done, err
	}
	if err := k.rewrite(segs[:n]); err != nil {
		return k.done, err
	}
	if err := l.updateMeta(func(m *Meta) {
		if l.settled(cuts) {
			m.Compacted = k.upto
		}
	}); err != nil {
		return k.done, l.judge(err)
	}
	k.done.End = k.upto
	return k.done, nil
}

// rewrite compacts the segments, group by group. That retention takes the
// oldest meanwhile does not stop it: with every pass in vain, a large topic
// would never get compacted.
func (k *compactor) rewrite(rest []*segment) error {
	for len(rest) > 0 {
		n := k.l.group(rest)
		err := k.compactGroup(rest[:n])
		if err == nil {
			rest = rest[n:]
			continue
		}
		left := k.l.remaining(rest)
		if !errors.Is(err, ErrStale) || left == len(rest) {
			return err
		}
		if rest = rest[len(rest)-left:]; left > 0 { // the group's first part was seen: begin anew
			k.txns, err = k.l.txnsOf(rest[0].base, record.Offset(rest[left-1].end.Load()))
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func (k *compactor) account() {
	compactionRead.Add(int(k.done.Read))
	compactionWritten.Add(int(k.done.Written))
	compactionRemoved.Add(int(k.done.Removed))
	compactionKeyBytes.Add(-k.keys.bytes())
}

// mapKeys reads the dirty segments and notes where each key's latest record
// is, as far as the map's memory lasts.
func (k *compactor) mapKeys(segs []*segment, d Dirt) error {
	k.keys = newKeyMap(int64(d.To-d.From), k.c.KeyBytes)
	compactionKeyBytes.Add(k.keys.bytes())
	k.upto = d.From
	txns, err := k.l.txnsOf(d.From, d.To)
	if err != nil {
		return err
	}
	for _, s := range segs {
		end := record.Offset(s.end.Load())
		if end <= d.From {
			continue
		}
		full := false
		err := k.each(s, func(b record.Batch, _ int64) (bool, error) {
			if b.LastOffset() < d.From {
				return true, nil
			}
			if b.IsControl() {
				txns.marker(b)
			} else if !txns.isAborted(b) {
				err := b.EachRecord(MaxBatchBytes, func(r *record.Record) bool {
					full = r.Key != nil && r.Offset >= d.From && !k.keys.put(r.Key, r.Offset)
					return !full
				})
				if err != nil || full {
					return false, err
				}
			}
			k.upto = b.LastOffset() + 1
			return true, nil
		})
		if errors.Is(err, ErrStale) && k.l.remaining([]*segment{s}) == 0 {
			txns, err = k.l.txnsOf(end, d.To) // retention took it, and all before it
		}
		if err != nil {
			return err
		}
		if full {
			if k.upto == d.From {
				return fmt.Errorf("%w: %d bytes, from offset %d", ErrKeyMap, k.c.KeyBytes, d.From)
			}
			return nil
		}
		k.upto = end
	}
	return nil
}

// begin notes durably that the segments may have gaps from now on, and what
// must be kept for producers.
func (k *compactor) begin(segs []*segment) error {
	l := k.l
	end := record.Offset(segs[len(segs)-1].end.Load())
	err := l.allowGaps(end, 0)
	if err != nil {
		return err
	}
	if k.txns, err = l.txnsOf(segs[0].base, end); err != nil {
		return err
	}
	return k.c.Turn(func() error {
		k.last = make(map[int64]producerLast, l.producers.Len())
		l.producers.All(func(p *Producer) {
			last := producerLast{offset: -1, epoch: p.Epoch}
			if p.known > 0 {
				last.offset = p.batches[p.known-1].LastOffset
			}
			k.last[p.ID] = last
		})
		return nil
	})
}

// txnsOf makes the filter for a pass through [from, to).
func (l *Log) txnsOf(from, to record.Offset) (*txnFilter, error) {
	aborted, err := l.Aborted(from, to)
	if err != nil {
		return nil, err
	}
	return newTxnFilter(aborted), nil
}

// remaining gives how many of the segments, the last ones, are still in the log.
func (l *Log) remaining(segs []*segment) int {
	all := *l.segs.Load()
	n := len(segs)
	for n > 0 && !slices.Contains(all, segs[len(segs)-n]) {
		n--
	}
	return n
}

// group gives how many of the segments, at least one, are rewritten as one.
func (l *Log) group(segs []*segment) int {
	size, most := segs[0].size.Load(), l.cfg.Load().SegmentBytes
	n := 1
	for ; n < len(segs); n++ {
		size += segs[n].size.Load()
		if size > most || segs[n].end.Load()-int64(segs[0].base) > math.MaxInt32 {
			break
		}
	}
	return n
}

const compactBuffer = 1 << 20

// each reads every batch of a sealed segment and calls f with it, whole and
// found to be sound, and its position, until f returns false. The batch is
// overwritten by the next call.
func (k *compactor) each(s *segment, f func(b record.Batch, pos int64) (bool, error)) error {
	data, err := s.acquire()
	if errors.Is(err, errGone) {
		return ErrStale
	}
	if err != nil {
		return err
	}
	defer data.Release()
	if k.buf == nil {
		k.buf = make([]byte, compactBuffer)
	}
	size, next := s.size.Load(), s.base
	for pos := int64(0); pos < size; {
		win := k.buf[:min(int64(len(k.buf)), size-pos)]
		if _, err := data.OS().ReadAt(win, pos); err != nil {
			return fmt.Errorf("reading %s at byte %d: %w", s.path(logSuffix), pos, err)
		}
		k.done.Read += int64(len(win))
		if err := k.c.Pace(len(win)); err != nil {
			return err
		}
		began := pos
		for len(win) > 0 {
			b, rest, err := record.Next(win)
			if errors.Is(err, record.ErrShort) && pos+int64(len(win)) < size {
				break // the window ends inside it
			}
			if err == nil {
				err = b.CheckCRC()
			}
			if err == nil {
				err = s.admit(b, next)
			}
			if err != nil {
				return s.corrupt(pos, err)
			}
			more, err := f(b, pos)
			if errors.Is(err, record.ErrCorrupt) {
				return s.corrupt(pos, err)
			}
			if err != nil || !more {
				return err
			}
			pos, next, win = pos+b.Size(), b.LastOffset()+1, rest
		}
		if pos == began {
			if err := k.enlarge(data.OS(), pos, size); err != nil {
				return s.damaged(pos, err)
			}
		}
	}
	if end := record.Offset(s.end.Load()); next != end {
		return s.corrupt(size, fmt.Errorf("%w: the segment ends at offset %d, want %d", record.ErrCorrupt, next, end))
	}
	return nil
}

// enlarge makes the buffer fit the batch at pos, whose checksum says first
// that its length is right.
func (k *compactor) enlarge(r io.ReaderAt, pos, limit int64) error {
	_, err := scan(r, pos, limit, func(h record.Batch, _ int64) (more bool, _ error) {
		k.buf = make([]byte, h.Size())
		return false, nil
	})
	return err
}

// compactGroup rewrites neighbouring segments as one and swaps it in.
func (k *compactor) compactGroup(group []*segment) (err error) {
	w, err := k.newWriter(group)
	if err != nil {
		return k.before(err)
	}
	swapped := false
	defer func() {
		if !swapped {
			err = errors.Join(err, w.abandon())
		}
	}()
	k.txns.index = nil
	for _, s := range group {
		err := k.each(s, func(b record.Batch, _ int64) (bool, error) {
			out, c, err := k.batch(b, record.Offset(w.seg.end.Load()))
			if err != nil {
				return false, err
			}
			k.done.Kept += int64(c.Records)
			k.done.Removed += int64(c.Removed)
			w.changed = w.changed || len(out) == 0 || &out[0] != &b[0]
			return true, w.add(out, c)
		})
		if err != nil {
			return k.before(err)
		}
	}
	if len(group) == 1 && !w.changed {
		return nil // it is as it should be; w is abandoned
	}
	if err := w.finish(k.txns.index); err != nil {
		return k.before(err)
	}
	swapped, err = k.l.swap(group, w)
	return k.before(err)
}

// before judges an error that came before anything of the log was changed:
// no reason to give the log up.
func (k *compactor) before(err error) error {
	if isFull(err) && !errors.Is(err, ErrFailed) {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}

// batch gives what is left of a batch, nil for nothing; end is where the
// rewritten segment ends. Its last batch always stays, if need be without
// records, so that a segment says itself where it ends. (Kafka keeps only the
// last batch of all.)
func (k *compactor) batch(b record.Batch, end record.Offset) (record.Batch, record.Compacted, error) {
	var over bool // the transaction's records are gone, or never counted
	drop := false
	if b.IsControl() {
		over = k.txns.marker(b)
		drop = over && b.HasDeleteHorizon() && b.FirstTimestamp() <= k.c.Now
	} else {
		over = k.txns.isAborted(b)
		drop = over
	}
	c := record.Compacted{Removed: int(b.NumRecords()), MaxTS: -1, MaxTSAt: -1}
	if !drop {
		var err error
		c, err = b.Compact(record.Compaction{
			Keep:          func(r *record.Record) bool { return b.IsControl() || k.keep(b, r) },
			DeleteHorizon: saturate(k.c.Now, k.c.DeleteRetention),
			Settled:       k.upto,
			Marked:        over && b.IsControl(),
			MaxBytes:      MaxBatchBytes,
		})
		if err != nil {
			return nil, c, err
		}
	}
	if c.Records > 0 {
		return c.Batch, c, nil
	}
	if k.endsProducer(b) || b.LastOffset()+1 == end {
		if b.NumRecords() == 0 && len(b) == record.HeaderSize {
			return b, c, nil
		}
		return b.Emptied(), c, nil
	}
	return nil, c, nil
}

func saturate(now int64, d time.Duration) int64 {
	if ms := d.Milliseconds(); now <= math.MaxInt64-ms {
		return now + ms
	}
	return math.MaxInt64
}

// keep says whether a record of a batch that is no marker stays. Records
// without key go: a topic that takes them does not compact, and one that was
// changed to do so has no use for them.
func (k *compactor) keep(b record.Batch, r *record.Record) bool {
	if r.Offset >= k.upto {
		return true
	}
	if r.Key == nil || r.Offset < k.keys.latest(r.Key) {
		return false
	}
	return r.Value != nil || !b.HasDeleteHorizon() || k.c.Now < b.FirstTimestamp()
}

// endsProducer says whether the batch has what a producer's state is made
// from after a crash: its last sequence, or else its epoch.
func (k *compactor) endsProducer(b record.Batch) bool {
	last, ok := k.last[b.ProducerID()]
	if !ok || b.ProducerID() < 0 {
		return false
	}
	if last.offset >= 0 {
		return b.LastOffset() == last.offset
	}
	return b.IsControl() && b.ProducerEpoch() == last.epoch
}

// cleanWriter writes a segment beside those that it will replace.
type cleanWriter struct {
	seg     *segment
	path    string
	f       *os.File
	x       *liveIndex
	buf     []byte
	pos     int64 // of the file, buf not counted
	k       *compactor
	group   []*segment
	changed bool
}

func (k *compactor) newWriter(group []*segment) (*cleanWriter, error) {
	base, end := group[0].base, record.Offset(group[len(group)-1].end.Load())
	path := swapPath(k.l.dir, base, end, cleanedSuffix)
	f, err := k.l.disk.Create(path)
	if err != nil {
		return nil, err
	}
	s := &segment{log: k.l, base: base, firstTS: -1}
	s.end.Store(int64(end))
	return &cleanWriter{seg: s, path: path, f: f, x: newLiveIndex(), k: k, group: group}, nil
}

func (w *cleanWriter) add(b record.Batch, c record.Compacted) error {
	if len(b) == 0 {
		return nil
	}
	at := w.pos + int64(len(w.buf))
	if at+int64(len(b)) > MaxSegmentBytes {
		return fmt.Errorf("commitlog: %s grows beyond %d bytes by compaction", w.group[0].path(logSuffix), MaxSegmentBytes)
	}
	w.x.add(uint32(b.BaseOffset()-w.seg.base), at, b.Size(), c.MaxTS, c.MaxTSAt, w.k.l.cfg.Load().IndexIntervalBytes)
	w.buf = append(w.buf, b...)
	if len(w.buf) < compactBuffer {
		return nil
	}
	return w.flush()
}

func (w *cleanWriter) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	if _, err := w.k.l.disk.WriteAt(w.f, w.buf, w.pos); err != nil {
		return fmt.Errorf("writing %s: %w", w.path, err)
	}
	w.pos += int64(len(w.buf))
	w.k.done.Written += int64(len(w.buf))
	n := len(w.buf)
	w.buf = w.buf[:0]
	return w.k.c.Pace(n)
}

// finish makes the segment ready to be swapped in, and durable. Its file
// keeps the time of the last of those it replaces.
func (w *cleanWriter) finish(aborted []record.AbortedTxn) error {
	if err := w.flush(); err != nil {
		return err
	}
	if st, err := os.Stat(w.group[len(w.group)-1].path(logSuffix)); err == nil {
		_ = os.Chtimes(w.path, st.ModTime(), st.ModTime()) // counts only where no record has a timestamp
	}
	if err := w.k.l.disk.Sync(w.f); err != nil {
		return fmt.Errorf("fsync of %s: %w", w.path, err)
	}
	w.x.aborted.Store(&aborted)
	w.seg.size.Store(w.pos)
	w.seg.live.Store(w.x)
	w.seg.file.Store(record.NewFile(w.f))
	return nil
}

// abandon removes what was written.
func (w *cleanWriter) abandon() error {
	w.f.Close()
	return w.k.l.disk.Remove(w.path)
}
