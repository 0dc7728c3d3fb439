package commitlog

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/firnlog/firn/broker/commitlog/journal"
	"github.com/firnlog/firn/broker/disk"
	"github.com/firnlog/firn/record"
)

// MaxSegmentBytes is the greatest size of a segment that is not one batch
// larger than this.
const MaxSegmentBytes = math.MaxInt32

// ErrFull says that the disk has no room. Nothing of the refused write is
// left, and the log goes on as soon as there is room.
var ErrFull = errors.New("commitlog: disk is full")

// ErrFailed says that a write or sync failed earlier and the log refuses
// everything since.
var ErrFailed = errors.New("commitlog: log has failed")

// ErrClosed says that the log was closed.
var ErrClosed = errors.New("commitlog: log is closed")

// Config can be changed while the log is open (SetConfig).
type Config struct {
	SegmentBytes       int64         // a segment is sealed before it exceeds this
	SegmentAge         time.Duration // and when its records span this much time; <=0 never
	SegmentJitter      time.Duration // a random part of this is taken off SegmentAge, anew for every segment
	IndexIntervalBytes int           // between two index entries
	IndexBytes         int           // a segment is sealed when one of its indexes has this size; <=0 never
	Preallocate        bool          // take SegmentBytes on disk for the active segment at once
	DeleteDelay        time.Duration // from a segment's removal to that of its files; <=0 none
}

func (c Config) orDefaults() Config {
	if c.SegmentBytes <= 0 || c.SegmentBytes > MaxSegmentBytes {
		c.SegmentBytes = 1 << 30
	}
	if c.IndexIntervalBytes <= 0 {
		c.IndexIntervalBytes = 4096
	}
	return c
}

// Deps are what a log uses and does not own.
type Deps struct {
	Log *slog.Logger     // nil: slog.Default
	Now func() time.Time // nil: time.Now
	// Failed is called once, from any goroutine, when the log fails.
	Failed func(error)
	Disk   *disk.Disk // nil: the real one

	// Journal, if any, may hold what was appended and is not in the segments;
	// the partition is this log's of its topic there.
	Journal   *journal.Journal
	Partition int32
	// PowerLost says that the machine has been restarted since the log was
	// last open: what was not synced may be there in part, in any order.
	PowerLost bool
}

// Log is one partition's folder, open. See the package comment for who may
// call what.
type Log struct {
	dir  string
	id   record.TopicID
	deps Deps
	disk *disk.Disk
	cfg  atomic.Pointer[Config]

	segs      atomic.Pointer[[]*segment] // ascending, at least one; the last is active; changed by edit
	named     atomic.Pointer[segment]    // the newest of which syncData knows that its name is durable
	tail      atomic.Pointer[mark]
	start     atomic.Int64
	gapsBelow atomic.Int64 // meta.GapsBelow
	epochs    atomic.Pointer[[]record.EpochStart]
	size      atomic.Int64 // of all segments
	failed    atomic.Pointer[error]
	closed    atomic.Bool
	released  atomic.Bool  // closed, and the files too
	cuts      atomic.Int64 // goes up when the log begins to be cut back, and when it is: odd in between

	segsMu   sync.Mutex // of edit: the writer and a compaction change segs; never held across I/O
	swapping sync.Mutex // a compacted segment takes its place, or segments are deleted; taken before flush.work

	durable   record.Offset // at Open
	recovered Recovered     // by Open
	closeErr  error

	producers   *Producers // the writer's
	changed     atomic.Bool
	savedEpochs []record.EpochStart // under metaMu
	metaMu      sync.Mutex          // of meta and the files it covers; held across their I/O
	meta        Meta
	flush       flusher
	trash       trash
}

// mark is the log's end: the next offset and where its batch will begin.
type mark struct {
	offset record.Offset
	seg    *segment
	pos    int64
}

// Entry describes one batch of an append.
type Entry struct {
	Batch       record.Batch
	MaxTSOffset record.Offset // of the first record that has the batch's MaxTimestamp
}

// SetConfig takes over new settings for what is written from now on.
func (l *Log) SetConfig(c Config) {
	c = c.orDefaults()
	l.cfg.Store(&c)
}

// Producers is the producer state at End. Only the writer may use it.
func (l *Log) Producers() *Producers { return l.producers }

// End is the offset that the next record gets.
func (l *Log) End() record.Offset { return l.tail.Load().offset }

// Start is the first offset that counts, hot or cold.
func (l *Log) Start() record.Offset { return record.Offset(l.start.Load()) }

// LocalStart is the first offset that counts and is in this folder.
func (l *Log) LocalStart() record.Offset { return max(l.Start(), (*l.segs.Load())[0].base) }

// Size is the bytes of all segments.
func (l *Log) Size() int64 { return l.size.Load() }

// NumSegments counts the active segment too.
func (l *Log) NumSegments() int { return len(*l.segs.Load()) }

// TopicID is the topic this folder belongs to.
func (l *Log) TopicID() record.TopicID { return l.id }

func (l *Log) active() *segment {
	segs := *l.segs.Load()
	return segs[len(segs)-1]
}

// edit replaces the list of segments. Readers keep the one that they loaded.
func (l *Log) edit(f func([]*segment) []*segment) {
	l.segsMu.Lock()
	defer l.segsMu.Unlock()
	segs := f(*l.segs.Load())
	l.segs.Store(&segs)
}

func (l *Log) usable() error {
	if err := l.failure(); err != nil {
		return err
	}
	if l.closed.Load() {
		return ErrClosed
	}
	return nil
}

// fail makes the log refuse everything from now on.
func (l *Log) fail(err error) error {
	if l.failed.CompareAndSwap(nil, &err) {
		failedLogs.Inc()
		if l.deps.Failed != nil {
			l.deps.Failed(err)
		}
	}
	return fmt.Errorf("%w: %w", ErrFailed, err)
}

// judge turns a failed write into ErrFull or into the log's failure. That the
// process has no descriptors or memory left says nothing about the disk and
// is the caller's to try again.
func (l *Log) judge(err error) error {
	switch {
	case isFull(err):
		l.trash.empty() // there is no more time to wait
		return fmt.Errorf("%w: %w", ErrFull, err)
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.ENOMEM):
		return fmt.Errorf("commitlog: out of resources: %w", err)
	case errors.Is(err, ErrFailed):
		return err
	}
	return l.fail(err)
}

func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// Append writes whole batches at the end. buf is all of them, one after the
// other, and entries describes each; their offsets begin at End without
// gaps, and their leader epochs are not below LastEpoch. After an error nothing
// was appended: ErrFull can be tried again, ErrFailed cannot.
func (l *Log) Append(buf []byte, entries []Entry) error {
	if err := l.usable(); err != nil {
		return err
	}
	first := entries[0].Batch
	if first.BaseOffset() != l.End() {
		return fmt.Errorf("commitlog: append at offset %d, the log ends at %d", first.BaseOffset(), l.End())
	}
	if e := l.LastEpoch(); first.LeaderEpoch() < e {
		return fmt.Errorf("commitlog: append with leader epoch %d, the log has %d", first.LeaderEpoch(), e)
	}
	return l.put(buf, entries)
}

// put writes batches at the end of the active segment, or of a new one.
func (l *Log) put(buf []byte, entries []Entry) error {
	first, last := entries[0].Batch, entries[len(entries)-1].Batch
	now := l.deps.Now()
	if l.mustRoll(int64(len(buf)), first, last.LastOffset(), now) {
		if err := l.Roll(); err != nil {
			return err
		}
	}
	seg := l.active()
	pos := seg.size.Load()
	l.changed.Store(true)
	if err := l.write(seg, buf, pos); err != nil {
		return err
	}
	if pos == 0 {
		seg.created, seg.firstTS = now, first.MaxTimestamp()
	}
	seg.written = now
	l.appended(seg, entries, now.UnixMilli())
	appends.Inc()
	appendedBytes.Add(len(buf))
	return nil
}

// write puts buf at the segment's end with one call, or leaves nothing.
func (l *Log) write(seg *segment, buf []byte, pos int64) error {
	f, err := seg.acquire()
	if err != nil {
		return l.judge(err)
	}
	defer f.Release()
	if _, err = l.disk.WriteAt(f.OS(), buf, pos); err == nil {
		return nil
	}
	if terr := l.disk.Truncate(f.OS(), pos); terr != nil {
		return l.fail(fmt.Errorf("appending to %s: %w, and cutting it off again: %w", seg.path(logSuffix), err, terr))
	}
	if isFull(err) {
		appendsRefused.Inc()
	}
	return l.judge(fmt.Errorf("appending to %s at byte %d: %w", seg.path(logSuffix), pos, err))
}

// appended takes batches that are in the active segment into everything that
// is kept about them, and moves the end. What is durable, and who may read
// it, is decided by the caller.
func (l *Log) appended(seg *segment, entries []Entry, now int64) {
	x, interval := seg.live.Load(), l.cfg.Load().IndexIntervalBytes
	pos := seg.size.Load()
	var end record.Offset
	for _, e := range entries {
		b := e.Batch
		if epochs := *l.epochs.Load(); len(epochs) == 0 || b.LeaderEpoch() > epochs[len(epochs)-1].Epoch {
			l.AssignEpoch(b.LeaderEpoch(), b.BaseOffset())
		}
		x.add(uint32(b.BaseOffset()-seg.base), pos, b.Size(), maxTimestamp(b), e.MaxTSOffset, interval)
		if t, ok := l.producers.Apply(b, now); ok {
			x.addAborted(t)
		}
		pos += b.Size()
		end = b.LastOffset() + 1
		appendedRecords.Add(int(b.NumRecords()))
	}
	l.grow(pos - seg.size.Load())
	seg.size.Store(pos)
	seg.end.Store(int64(end))
	l.tail.Store(&mark{offset: end, seg: seg, pos: pos})
}

func (l *Log) grow(n int64) {
	l.size.Add(n)
	sizeBytes.Add(n)
}

// mustRoll says whether the active segment has to be sealed before n bytes
// that begin with batch first and end at offset last. Time is measured as
// Kafka does: from the first batch's timestamp to this one's, or by the
// clock when records carry none.
func (l *Log) mustRoll(n int64, first record.Batch, last record.Offset, now time.Time) bool {
	seg, cfg := l.active(), l.cfg.Load()
	size := seg.size.Load()
	if size == 0 {
		return false
	}
	if size+n > cfg.SegmentBytes || int64(last-seg.base) > math.MaxInt32 {
		return true
	}
	if cfg.IndexBytes > 0 && seg.live.Load().full(cfg.IndexBytes) {
		return true
	}
	if cfg.SegmentAge <= 0 {
		return false
	}
	age := cfg.SegmentAge - seg.jitter
	if ts := first.MaxTimestamp(); seg.firstTS >= 0 && ts >= 0 {
		return ts-seg.firstTS > age.Milliseconds()
	}
	return now.Sub(seg.created) > age
}

// jitter draws what a segment is sealed earlier than SegmentAge says.
func (c *Config) jitter() time.Duration {
	most := min(c.SegmentJitter, c.SegmentAge)
	if most <= 0 {
		return 0
	}
	return rand.N(most)
}

// RollIfOld seals the active segment when its first append is longer ago than
// Config.SegmentAge, so that a partition that has gone quiet is sealed too.
func (l *Log) RollIfOld(now time.Time) error {
	seg, age := l.active(), l.cfg.Load().SegmentAge
	if age <= 0 || seg.size.Load() == 0 || now.Sub(seg.created) <= age-seg.jitter {
		return nil
	}
	return l.Roll()
}

// Roll seals the active segment, if it has records, and begins another. The
// sealed one's small files and its fsync follow in the background.
func (l *Log) Roll() error {
	if err := l.usable(); err != nil {
		return err
	}
	cur := l.active()
	if cur.size.Load() == 0 {
		return nil
	}
	l.changed.Store(true)
	if l.named.Load() == nil { // or a power loss could take the first segment alone
		if err := l.syncNames(); err != nil {
			return l.judge(err)
		}
		l.named.Store(cur)
	}
	next, err := l.newSegment(l.End())
	if err != nil {
		return l.judge(err)
	}
	cur.live.Load().snapshot = l.producers.encode(l.End())
	l.edit(func(segs []*segment) []*segment { return append(slices.Clone(segs), next) })
	l.tail.Store(&mark{offset: next.base, seg: next})
	segmentsRolled.Inc()
	l.giveBack(cur)
	l.flush.add(cur)
	return nil
}

// giveBack cuts off what was preallocated for a segment and is not needed.
func (l *Log) giveBack(s *segment) {
	if !s.reserved {
		return
	}
	s.reserved = false
	f, err := s.acquire()
	if err != nil {
		return
	}
	defer f.Release()
	if err := l.disk.Truncate(f.OS(), s.size.Load()); err != nil {
		l.deps.Log.Warn("preallocated room cannot be given back", "segment", s.path(logSuffix), "err", err)
	}
}

// newSegment makes an empty active segment on disk.
func (l *Log) newSegment(base record.Offset) (*segment, error) {
	cfg := l.cfg.Load()
	s := &segment{log: l, base: base, created: l.deps.Now(), firstTS: -1, jitter: cfg.jitter()}
	f, err := l.disk.Create(s.path(logSuffix))
	if err != nil {
		return nil, err
	}
	if cfg.Preallocate {
		if err := l.disk.Reserve(f, cfg.SegmentBytes); err != nil {
			f.Close()
			_ = l.disk.Remove(s.path(logSuffix)) // nothing is in it
			return nil, fmt.Errorf("preallocating %d bytes for %s: %w", cfg.SegmentBytes, s.path(logSuffix), err)
		}
		s.reserved = true
	}
	s.file.Store(record.NewFile(f))
	s.end.Store(int64(base))
	s.live.Store(newLiveIndex())
	segmentsOpen.Add(1)
	return s, nil
}

// AssignEpoch says that leader epoch e began at offset start. Entries that it
// contradicts go; an epoch not above the last one's is ignored.
func (l *Log) AssignEpoch(e record.Epoch, start record.Offset) {
	old := *l.epochs.Load()
	if n := len(old); n > 0 && e <= old[n-1].Epoch {
		return
	}
	epochs := append(EpochsBelow(old, start), record.EpochStart{Epoch: e, Start: start})
	l.epochs.Store(&epochs)
}

// Epochs gives where each leader epoch began. Do not change the result.
func (l *Log) Epochs() []record.EpochStart { return *l.epochs.Load() }

// LastEpoch is the latest leader epoch, -1 for none.
func (l *Log) LastEpoch() record.Epoch {
	epochs := *l.epochs.Load()
	if len(epochs) == 0 {
		return -1
	}
	return epochs[len(epochs)-1].Epoch
}

// trimEpochs forgets epochs that ended before the log's start.
func (l *Log) trimEpochs(start record.Offset) {
	epochs := *l.epochs.Load()
	i := 0
	for i+1 < len(epochs) && epochs[i+1].Start <= start {
		i++
	}
	if i > 0 {
		epochs = slices.Clone(epochs[i:])
		l.epochs.Store(&epochs)
	}
}

// SetLogStart moves the first offset that counts, durably; it never goes
// back. Segments stay until DropOldest.
func (l *Log) SetLogStart(o record.Offset) error {
	if err := l.usable(); err != nil {
		return err
	}
	if o <= l.Start() {
		return nil
	}
	if err := l.updateMeta(func(m *Meta) { m.LogStart = o }); err != nil {
		return l.judge(err)
	}
	l.start.Store(int64(o))
	l.trimEpochs(o)
	return nil
}

// DropOldest removes sealed segments, the oldest first, while f says so. With
// moveStart the log's start moves to the first segment that stays. A full
// disk does not stop it. While a compacted segment takes its place nothing is
// removed: the caller asks again anyway.
func (l *Log) DropOldest(moveStart bool, f func(record.Segment, time.Time) bool) (int, error) {
	if err := l.usable(); err != nil {
		return 0, err
	}
	if !l.swapping.TryLock() {
		return 0, nil
	}
	defer l.swapping.Unlock()
	segs := *l.segs.Load()
	n := 0
	for n < len(segs)-1 {
		seg, modified, err := segs[n].describe()
		if err != nil {
			return 0, err
		}
		if !f(seg, modified) {
			break
		}
		n++
	}
	if n == 0 {
		return 0, nil
	}
	var full error
	if start := segs[n].base; moveStart && start > l.Start() {
		if full = l.SetLogStart(start); errors.Is(full, ErrFull) {
			l.start.Store(int64(start)) // the segments' names say the same after a crash
		} else if full != nil {
			return 0, full
		}
	}
	err := l.drop(n)
	if full != nil && err == nil {
		start := l.Start()
		if err = l.updateMeta(func(m *Meta) { m.LogStart = start }); isFull(err) {
			err = nil
		}
	}
	if err != nil {
		return n, l.judge(err)
	}
	return n, nil
}

// drop takes the oldest n segments out of the list and removes their files.
// l.swapping is held.
func (l *Log) drop(n int) error {
	segs := *l.segs.Load()
	for _, s := range segs[:n] {
		if s.live.Load() == nil {
			continue
		}
		// Its end's producer snapshot is what the next segment begins with.
		if err := l.flush.drain(false); err != nil && !errors.Is(err, ErrFull) {
			return err
		}
		break
	}
	l.edit(func(segs []*segment) []*segment { return slices.Clone(segs[n:]) })
	l.changed.Store(true)
	var errs error
	for _, s := range segs[:n] {
		l.grow(-s.size.Load())
		segmentsOpen.Add(-1)
		segmentsDeleted.Inc()
		errs = errors.Join(errs, s.discard(l.trash.put))
	}
	return errs
}

// Close syncs everything and marks the folder as closed properly. Spans that
// were handed out stay readable. A failed log is closed without the mark.
func (l *Log) Close() error {
	if l.closed.Swap(true) {
		return nil
	}
	l.swapping.Lock()
	defer l.swapping.Unlock()
	var err error
	if l.failed.Load() == nil {
		err = l.closeClean()
	}
	l.closeErr = errors.Join(err, l.failure())
	l.release()
	return err
}

func (l *Log) failure() error {
	if e := l.failed.Load(); e != nil {
		return fmt.Errorf("%w: %w", ErrFailed, *e)
	}
	return nil
}

// CloseErr says after Close why what was appended may not be on disk; nil when
// it is, before Close, and after Remove.
func (l *Log) CloseErr() error { return l.closeErr }

// Remove closes the log and deletes the folder, as RemoveFolder does.
func (l *Log) Remove() error {
	if !l.closed.Swap(true) {
		l.swapping.Lock()
		defer l.swapping.Unlock()
		l.release()
	}
	return RemoveFolder(l.disk, l.dir)
}

func (l *Log) release() {
	l.released.Store(true)
	l.flush.stop()
	l.trash.stop()
	segs := *l.segs.Load()
	for _, s := range segs {
		s.close()
	}
	segmentsOpen.Add(-int64(len(segs)))
	sizeBytes.Add(-l.size.Load())
	l.producers.release()
}

// Kick tries again to write small files that a full disk left undone.
func (l *Log) Kick() { l.flush.kick() }

// Active says of the active segment what its greatest timestamp is, -1 for
// none, and when the first and the last append to it were; ok is false when
// it is empty. Only the writer may call it.
func (l *Log) Active() (maxTS int64, first, last time.Time, ok bool) {
	s := l.active()
	if s.size.Load() == 0 {
		return -1, first, last, false
	}
	return s.live.Load().summary().MaxTimestamp, s.created, s.written, true
}

// DropDamaged removes the sealed segment that c names and all before it, if
// they end at or below safe. The log's start stays.
func (l *Log) DropDamaged(c *CorruptError, safe record.Offset) (int, error) {
	if err := l.usable(); err != nil {
		return 0, err
	}
	l.swapping.Lock()
	defer l.swapping.Unlock()
	segs := *l.segs.Load()
	for i, s := range segs[:len(segs)-1] {
		if s.path(logSuffix) != c.Path {
			continue
		}
		if record.Offset(s.end.Load()) > safe {
			return 0, nil
		}
		if err := l.drop(i + 1); err != nil {
			return i + 1, l.judge(err)
		}
		return i + 1, nil
	}
	return 0, nil
}
