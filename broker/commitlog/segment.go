package commitlog

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/firnlog/firn/broker/disk"
	"github.com/firnlog/firn/record"
)

const (
	logSuffix      = ".log"
	indexSuffix    = ".index"
	timeSuffix     = ".timeindex"
	txnSuffix      = ".txnindex"
	snapshotSuffix = ".snapshot"
	tmpSuffix      = ".tmp"
	deletedSuffix  = ".deleted"
	metaName       = "partition.meta"
	epochsName     = "leader-epoch-checkpoint"

	// MaxBatchBytes bounds a batch's records decompressed, wherever the broker
	// has to look at them.
	MaxBatchBytes = 128 << 20
	sampleEvery   = 128
)

// errGone says that the segment was deleted while somebody looked at it.
var errGone = errors.New("commitlog: segment was deleted")

// CorruptError says where the log is damaged in a way that may not be
// repaired by cutting a tail off. It wraps record.ErrCorrupt.
type CorruptError struct {
	Path     string
	Position int64
	Err      error
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("commitlog: %s is corrupt at byte %d: %v", e.Path, e.Position, e.Err)
}

func (e *CorruptError) Unwrap() []error { return []error{record.ErrCorrupt, e.Err} }

// segment is one run of the log. The last of a log is active: it grows. All
// others are sealed and never change.
type segment struct {
	log  *Log
	base record.Offset
	size atomic.Int64
	end  atomic.Int64 // exclusive

	file  atomic.Pointer[record.File] // nil until first needed
	live  atomic.Pointer[liveIndex]   // nil when the small files are written
	index atomic.Pointer[sealedIndex] // loaded .index of a sealed segment
	info  atomic.Pointer[sealedInfo]  // loaded .timeindex and .txnindex

	known  soundness // which bytes may be handed out
	damage damage    // why the index in memory covers only a part

	mu   sync.Mutex // of opening, loading and deleting; not of reading
	gone bool

	// The writer's own, of the active segment.
	created  time.Time     // of the first append; after an open, of the last one
	written  time.Time     // of the last append
	firstTS  int64         // max timestamp of the first batch, -1 for none
	jitter   time.Duration // it is sealed this much before Config.SegmentAge
	reserved bool          // room was preallocated beyond its end
}

// damage is nil until the segment's index had to be made anew and its batches
// turned out to be damaged.
type damage struct {
	p atomic.Pointer[CorruptError]
	// openTxn says that a transaction may have been open at the damage: what
	// became of it is not known.
	openTxn atomic.Bool
}

func (d *damage) err() error {
	if e := d.p.Load(); e != nil {
		return e
	}
	return nil
}

type sealedInfo struct {
	Summary
	aborted []record.AbortedTxn
}

func (s *segment) path(suffix string) string {
	return filepath.Join(s.log.dir, fmt.Sprintf("%020d%s", s.base, suffix))
}

func (s *segment) corrupt(pos int64, err error) *CorruptError {
	corruptSegments.Inc()
	return &CorruptError{Path: s.path(logSuffix), Position: pos, Err: err}
}

// gappy says whether the segment may lack offsets, because it was compacted.
func (s *segment) gappy() bool { return int64(s.base) < s.log.gapsBelow.Load() }

// follows says whether a batch may come where offset next is due.
func (s *segment) follows(h record.Batch, next record.Offset) bool {
	return h.BaseOffset() == next || h.BaseOffset() > next && s.gappy()
}

// admit says what is wrong with a batch, whose checksum is right, in the place
// where offset next is due: the checksum covers neither base offset nor epoch.
func (s *segment) admit(h record.Batch, next record.Offset) error {
	if end := record.Offset(s.end.Load()); !s.follows(h, next) || h.LastOffset() >= end {
		return fmt.Errorf("%w: batch of offsets %d–%d, want %d and below %d", record.ErrCorrupt, h.BaseOffset(), h.LastOffset(), next, end)
	}
	if e := s.log.EpochAt(h.BaseOffset()); e >= 0 && e != h.LeaderEpoch() {
		return fmt.Errorf("%w: batch at offset %d has leader epoch %d, want %d", record.ErrCorrupt, h.BaseOffset(), h.LeaderEpoch(), e)
	}
	return nil
}

// acquire gives the data file with a reference that the caller releases.
func (s *segment) acquire() (*record.File, error) {
	if f := s.file.Load(); f != nil && f.Acquire() {
		return f, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.acquireLocked()
}

func (s *segment) acquireLocked() (*record.File, error) {
	if s.gone {
		return nil, errGone
	}
	f := s.file.Load()
	if f == nil {
		of, err := os.OpenFile(s.path(logSuffix), os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		f = record.NewFile(of)
		s.file.Store(f)
	}
	f.Acquire()
	return f, nil
}

// close gives up the descriptors; readers that hold references go on.
func (s *segment) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = true
	if f := s.file.Swap(nil); f != nil {
		f.Release()
	}
	if x := s.index.Swap(nil); x != nil {
		x.file.Release()
	}
}

// discard closes the segment and calls remove for each of its files, of which
// some may not be there. Spans that are still being sent hold the descriptor.
func (s *segment) discard(remove func(path string) error) error {
	s.close()
	var errs error
	for _, suffix := range []string{indexSuffix, timeSuffix, txnSuffix, snapshotSuffix, logSuffix} {
		if err := remove(s.path(suffix)); !errors.Is(err, fs.ErrNotExist) {
			errs = errors.Join(errs, err)
		}
	}
	return errs
}

// liveIndex is the index of a segment whose small files are not written yet.
// One writer adds; readers see what was published.
type liveIndex struct {
	offsets atomic.Pointer[[]offsetEntry]
	times   atomic.Pointer[[]timeEntry]
	aborted atomic.Pointer[[]record.AbortedTxn]
	sumMu   sync.Mutex
	sum     Summary

	since    int64  // bytes since the last entry
	thinned  int    // how often every second entry went
	snapshot []byte // producer state at the segment's end, once sealed
}

func newLiveIndex() *liveIndex {
	x := &liveIndex{sum: Summary{MaxTimestamp: -1, MaxTSOffset: -1}}
	x.offsets.Store(&[]offsetEntry{})
	x.times.Store(&[]timeEntry{})
	x.aborted.Store(&[]record.AbortedTxn{})
	return x
}

func (x *liveIndex) summary() Summary {
	x.sumMu.Lock()
	defer x.sumMu.Unlock()
	s := x.sum
	s.Aborted = len(*x.aborted.Load())
	return s
}

// add takes in a batch of size bytes at pos.
func (x *liveIndex) add(rel uint32, pos, size, maxTS int64, maxTSOffset record.Offset, interval int) {
	x.sumMu.Lock()
	if maxTS > x.sum.MaxTimestamp {
		x.sum.MaxTimestamp, x.sum.MaxTSOffset = maxTS, maxTSOffset
	}
	maxTS = x.sum.MaxTimestamp
	x.sumMu.Unlock()
	if pos > 0 && rel > 0 && x.since > int64(interval)<<x.thinned {
		x.push(rel, pos, maxTS)
		x.since = 0
	}
	x.since += size
}

// full says whether one of the index files would have so many bytes, as far
// as Kafka counts them: 8 for an offset, 12 for a time.
func (x *liveIndex) full(bytes int) bool {
	return len(*x.offsets.Load()) >= bytes/offsetEntrySize || len(*x.times.Load()) >= bytes/timeEntrySize-1
}

func (x *liveIndex) push(rel uint32, pos, maxTS int64) {
	offsets := *x.offsets.Load()
	if len(offsets) >= maxIndexEntries {
		offsets = thin(offsets)
		x.thinned++
	}
	offsets = append(offsets, offsetEntry{rel, uint32(pos)})
	x.offsets.Store(&offsets)
	times := *x.times.Load()
	if n := len(times); n == 0 || maxTS > times[n-1].ts {
		if n >= maxIndexEntries {
			times = thin(times)
		}
		times = append(times, timeEntry{maxTS, rel})
		x.times.Store(&times)
	}
}

func (x *liveIndex) addAborted(t record.AbortedTxn) {
	all := append(slices.Clip(*x.aborted.Load()), t)
	x.aborted.Store(&all)
}

// sealedIndex is a sealed segment's .index, of which every 128th entry is in
// memory and the others are read when needed.
type sealedIndex struct {
	file    *record.File
	n       int
	samples []offsetEntry // entry 0, 128, 256 …
}

var blockBuffers = sync.Pool{New: func() any { return new([sampleEvery * offsetEntrySize]byte) }}

// floor gives the last entry for which less holds, the segment's start for
// none.
func (x *sealedIndex) floor(less func(offsetEntry) bool) (offsetEntry, error) {
	lo, hi := 0, len(x.samples) // the last sample for which less holds
	for lo < hi {
		if mid := (lo + hi) / 2; less(x.samples[mid]) {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == 0 {
		return offsetEntry{}, nil
	}
	first := (lo - 1) * sampleEvery
	n := min(sampleEvery, x.n-first)
	raw := blockBuffers.Get().(*[sampleEvery * offsetEntrySize]byte)
	defer blockBuffers.Put(raw)
	if _, err := x.file.ReadAt(raw[:n*offsetEntrySize], disk.FrameHead+offsetHeadSize+int64(first)*offsetEntrySize); err != nil {
		return offsetEntry{}, err
	}
	best := 0 // the first entry is a sample, less holds for it
	for lo, hi := 1, n; lo < hi; {
		if mid := (lo + hi) / 2; less(readOffsetEntry(raw[mid*offsetEntrySize:])) {
			best, lo = mid, mid+1
		} else {
			hi = mid
		}
	}
	return readOffsetEntry(raw[best*offsetEntrySize:]), nil
}

// floorOffset gives a position at or before the batch that contains o.
func (s *segment) floorOffset(o record.Offset) (offsetEntry, error) {
	rel := uint32(min(max(o-s.base, 0), math.MaxUint32))
	return s.floor(
		func(e []offsetEntry) offsetEntry { return floorOffset(e, rel) },
		func(e offsetEntry) bool { return e.rel <= rel })
}

// floorPosition gives the last known start of a batch at or before p.
func (s *segment) floorPosition(p int64) (offsetEntry, error) {
	pos := uint32(min(p, math.MaxUint32))
	return s.floor(
		func(e []offsetEntry) offsetEntry { return floorPosition(e, pos) },
		func(e offsetEntry) bool { return e.pos <= pos })
}

func (s *segment) floor(find func([]offsetEntry) offsetEntry, less func(offsetEntry) bool) (offsetEntry, error) {
	for {
		if x := s.live.Load(); x != nil {
			return find(*x.offsets.Load()), nil
		}
		x, err := s.loadIndex()
		if err != nil {
			return offsetEntry{}, err
		}
		if x == nil {
			continue // made anew: it is live now
		}
		e, err := x.floor(less)
		x.file.Release()
		return e, err
	}
}

// loadIndex gives the sealed index with a reference to its file, or nil when
// it had to be made anew.
func (s *segment) loadIndex() (*sealedIndex, error) {
	if x := s.index.Load(); x != nil && x.file.Acquire() {
		return x, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return nil, errGone
	}
	if x := s.index.Load(); x != nil {
		x.file.Acquire()
		return x, nil
	}
	if s.live.Load() != nil {
		return nil, nil
	}
	x, err := s.openIndex()
	if errors.Is(err, ErrFormat) || errors.Is(err, fs.ErrNotExist) {
		return nil, s.rebuildLocked(err)
	}
	if err != nil {
		return nil, err
	}
	x.file.Acquire()
	s.index.Store(x)
	return x, nil
}

func (s *segment) openIndex() (*sealedIndex, error) {
	f, err := os.Open(s.path(indexSuffix))
	if err != nil {
		return nil, err
	}
	entries, err := s.readIndex(f)
	if err != nil {
		f.Close()
		return nil, err
	}
	x := &sealedIndex{file: record.NewFile(f), n: len(entries)}
	for i := 0; i < len(entries); i += sampleEvery {
		x.samples = append(x.samples, entries[i])
	}
	return x, nil
}

// readIndex reads, checks and compares with the segment: base and size must
// be its own and the entries must lie in it. Whether the segment is damaged
// shows when it is read.
func (s *segment) readIndex(r io.Reader) ([]offsetEntry, error) {
	raw, err := io.ReadAll(io.LimitReader(r, disk.FrameExtra+offsetHeadSize+maxIndexEntries*offsetEntrySize+1))
	if err != nil {
		return nil, err
	}
	base, size, entries, err := decodeOffsets(raw)
	if err != nil {
		return nil, err
	}
	var last offsetEntry
	if len(entries) > 0 {
		last = entries[len(entries)-1]
	}
	if base != s.base || size != s.size.Load() || int64(last.pos) > size || s.base+record.Offset(last.rel) > record.Offset(s.end.Load()) {
		return nil, fmt.Errorf("%w: offset index of base %d and %d bytes, the segment has %d and %d", ErrFormat, base, size, s.base, s.size.Load())
	}
	return entries, nil
}

// sealedInfo gives the summary and the aborted transactions.
func (s *segment) loadInfo() (*sealedInfo, error) {
	for {
		if x := s.live.Load(); x != nil {
			return &sealedInfo{Summary: x.summary(), aborted: *x.aborted.Load()}, nil
		}
		if i := s.info.Load(); i != nil {
			return i, nil
		}
		if err := s.readInfo(); err != nil {
			return nil, err
		}
	}
}

func (s *segment) readInfo() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return errGone
	}
	if s.live.Load() != nil || s.info.Load() != nil {
		return nil
	}
	_, sum, err := s.readTimes()
	info := &sealedInfo{Summary: sum}
	if err == nil && sum.Aborted > 0 {
		var raw []byte
		if raw, err = os.ReadFile(s.path(txnSuffix)); err == nil {
			_, info.aborted, err = DecodeTxnIndex(raw)
		}
		if err == nil && len(info.aborted) != sum.Aborted {
			err = fmt.Errorf("%w: %d aborted transactions, want %d", ErrFormat, len(info.aborted), sum.Aborted)
		}
	}
	if errors.Is(err, ErrFormat) || errors.Is(err, fs.ErrNotExist) {
		return s.rebuildLocked(err)
	}
	if err == nil {
		s.info.Store(info)
	}
	return err
}

func (s *segment) readTimes() ([]timeEntry, Summary, error) {
	raw, err := os.ReadFile(s.path(timeSuffix))
	if err != nil {
		return nil, Summary{}, err
	}
	base, sum, times, err := decodeTimes(raw)
	if err == nil && (base != s.base || sum.Bytes != s.size.Load()) {
		err = fmt.Errorf("%w: time index of base %d and %d bytes, the segment has %d and %d", ErrFormat, base, sum.Bytes, s.base, s.size.Load())
	}
	return times, sum, err
}

// timeIndex gives all entries.
func (s *segment) timeIndex() ([]timeEntry, error) {
	for {
		if x := s.live.Load(); x != nil {
			return *x.times.Load(), nil
		}
		times, _, err := s.readTimes()
		if err == nil {
			return times, nil
		}
		if !errors.Is(err, ErrFormat) && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		s.mu.Lock()
		if s.gone {
			err = errGone
		} else if s.live.Load() == nil {
			err = s.rebuildLocked(err)
		} else {
			err = nil
		}
		s.mu.Unlock()
		if err != nil {
			return nil, err
		}
	}
}

// rebuildLocked makes a sealed segment's indexes anew from its batches, whose
// checksums it compares, and queues them to be written. Those of a damaged
// segment reach until the damage and stay in memory. s.mu is held.
func (s *segment) rebuildLocked(cause error) error {
	s.log.deps.Log.Warn("index is missing or damaged, making it anew", "segment", s.path(logSuffix), "cause", cause)
	data, err := s.acquireLocked()
	if err != nil {
		return err
	}
	defer data.Release()
	ps, err := readSnapshot(s.path(snapshotSuffix), s.base)
	unsure := err != nil && s.base > 0
	if err != nil {
		ps = NewProducers()
	}
	defer ps.release()
	b := newBuilder(s, ps)
	a, err := s.check(data.OS(), area{next: s.base}, s.size.Load(), func(h record.Batch, pos int64) bool {
		b.add(h, pos, data.OS())
		return true
	})
	if end := record.Offset(s.end.Load()); err == nil && a.next != end {
		err = fmt.Errorf("%w: the segment ends at offset %d, want %d", record.ErrCorrupt, a.next, end)
	}
	if err != nil && !errors.Is(err, record.ErrCorrupt) {
		return s.damaged(a.to, err)
	}
	b.finish(data.OS())
	rebuiltIndexes.Inc()
	if x := s.index.Swap(nil); x != nil {
		x.file.Release()
	}
	s.info.Store(nil)
	if err != nil {
		s.distrust(a)
		s.damage.openTxn.Store(unsure || ps.FirstOpenTxn() >= 0)
		s.damage.p.Store(s.corrupt(a.to, err))
		s.live.Store(b.x)
		return nil
	}
	s.live.Store(b.x)
	s.log.flush.add(s)
	return nil
}

// builder makes a segment's index from headers.
type builder struct {
	s     *segment
	x     *liveIndex
	ps    *Producers
	now   int64
	maxTS int64
	maxAt int64 // position of the first batch with maxTS
}

func newBuilder(s *segment, ps *Producers) *builder {
	return &builder{s: s, x: newLiveIndex(), ps: ps, now: s.log.deps.Now().UnixMilli(), maxTS: -1, maxAt: -1}
}

// maxTimestamp is the greatest timestamp of a batch's records, -1 for none.
func maxTimestamp(h record.Batch) int64 {
	if h.NumRecords() == 0 {
		return -1 // compaction left the header only: no record has that time
	}
	return h.MaxTimestamp()
}

// add takes in a batch; b may be its header only, then r gives the rest.
func (b *builder) add(h record.Batch, pos int64, r io.ReaderAt) {
	maxTS := maxTimestamp(h)
	if maxTS > b.maxTS {
		b.maxTS, b.maxAt = maxTS, pos
	}
	rel := uint32(h.BaseOffset() - b.s.base)
	b.x.add(rel, pos, h.Size(), maxTS, h.BaseOffset(), b.s.log.cfg.Load().IndexIntervalBytes)
	if h.IsControl() && int64(len(h)) < h.Size() {
		whole := make(record.Batch, h.Size())
		if _, err := r.ReadAt(whole, pos); err != nil {
			return // the walk meets the same error
		}
		h = whole
	}
	if t, ok := b.ps.Apply(h, b.now); ok {
		b.x.addAborted(t)
	}
}

// finish finds the record, within its batch, that has the greatest timestamp.
func (b *builder) finish(r io.ReaderAt) {
	if b.maxAt < 0 {
		return
	}
	batch, err := readSound(r, b.maxAt)
	if err != nil {
		return // the batch's base offset stands
	}
	if t, ok, err := batch.FirstAtOrAfter(b.maxTS, 0, MaxBatchBytes); ok && err == nil {
		b.x.sum.MaxTSOffset = t.Offset
	}
}
