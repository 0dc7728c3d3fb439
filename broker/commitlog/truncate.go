package commitlog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/firnlog/firn/broker/commitlog/journal"
	"github.com/firnlog/firn/record"
)

// Truncations counts how often the log was cut back since it was opened. Only
// the writer may call it.
func (l *Log) Truncations() int64 { return l.cuts.Load() / 2 }

// Truncate cuts the log's end back to offset to, and gives where it ends then:
// at to, or lower, since a batch that holds to goes whole, as do offsets at the
// new end that were compacted away. Leader epochs that began at or above the
// end go too, and producer state is what it was there. When it returns, what
// was cut off does not come back, whatever happens. A to at or above the end
// takes only epochs that began there.
//
// The order: everything that can fail without harm is prepared; recovery point
// and clean mark are taken back; the journal is told, durably; the readers see
// the shorter log; the files are cut, the last first, and synced. Recovery
// after a crash in between finds the log as it was, or less of its tail.
//
// Spans that were handed out stay open; of those that reach beyond the cut, the
// end may turn out to be missing, or to be other records. Only followers read
// there.
//
// Errors: ErrOutOfRange when to is below LocalStart: StartAt is for that.
// *CorruptError: what is to stay of the last segment is damaged. ErrFull: the
// log is as it was. ErrFailed.
func (l *Log) Truncate(to record.Offset) (record.Offset, error) {
	if err := l.usable(); err != nil {
		return l.End(), err
	}
	if start := l.LocalStart(); to < start {
		return l.End(), fmt.Errorf("%w: truncate to offset %d, the log begins at %d", ErrOutOfRange, to, start)
	}
	l.swapping.Lock()
	defer l.swapping.Unlock()
	l.flush.work.Lock() // nobody writes the old segments' small files meanwhile
	defer l.flush.work.Unlock()
	if to >= l.End() {
		return l.End(), l.truncateEpochs(l.End())
	}
	segs := *l.segs.Load()
	at := floorSegment(segs, to)
	ps, err := l.producersAt(segs, at)
	if err != nil {
		return l.End(), l.prepared(err)
	}
	last, err := segs[at].reopen(ps, to)
	if err != nil {
		ps.release()
		return l.End(), l.prepared(err)
	}
	end := record.Offset(last.end.Load())
	if end < l.Start() { // the batch in whose middle the log begins
		last.close()
		return l.endAt(l.restart(l.Start(), l.Start(), EpochsBelow(*l.epochs.Load(), end), ps))
	}
	done := false
	err = l.cutBack(end, end, func() error {
		done = true
		if err := l.cut(segs, at, last, ps); err != nil {
			return l.fail(err) // what the folder looks like is for the next Open to find out
		}
		return nil
	})
	if !done {
		last.close()
		ps.release()
	}
	return l.endAt(err)
}

func (l *Log) endAt(err error) (record.Offset, error) { return l.End(), err }

// prepared judges an error that came before anything was changed: damage is no
// reason to give the log up.
func (l *Log) prepared(err error) error {
	if errors.Is(err, record.ErrCorrupt) || errors.Is(err, ErrFormat) {
		return err
	}
	return l.judge(err)
}

// reopen gives the segment anew, as the active one, with its batches below to,
// which ps takes in. It holds the file's reference.
func (s *segment) reopen(ps *Producers, to record.Offset) (*segment, error) {
	now, cfg := s.log.deps.Now(), s.log.cfg.Load()
	next := &segment{log: s.log, base: s.base, created: s.created, written: s.written, firstTS: -1, jitter: cfg.jitter()}
	if next.created.IsZero() {
		next.created, next.written = now, now
	}
	f, err := s.acquire()
	if err != nil {
		return nil, err
	}
	next.file.Store(f)
	b := newBuilder(next, ps)
	end, pos := s.base, int64(0)
	var bad error
	err = s.walk(f.OS(), 0, s.size.Load(), func(h record.Batch, at int64) bool {
		if bad = s.admit(h, end); bad != nil || h.LastOffset() >= to {
			return false
		}
		if at == 0 {
			next.firstTS = h.MaxTimestamp()
		}
		b.add(h, at, f.OS())
		end, pos = h.LastOffset()+1, at+h.Size()
		return true
	})
	if bad != nil {
		err = s.corrupt(pos, bad)
	}
	if err != nil {
		next.close()
		return nil, err
	}
	b.finish(f.OS())
	next.live.Store(b.x)
	next.size.Store(pos)
	next.end.Store(int64(end))
	if below := s.known.below.Load(); below > 0 {
		next.known.doubt(min(below, pos))
	}
	return next, nil
}

// cutBack takes back what is said to be durable above end, tells the journal that
// of its records only those below kept count, and calls cut.
func (l *Log) cutBack(end, kept record.Offset, cut func() error) error {
	l.changed.Store(true)
	err := l.updateMeta(func(m *Meta) {
		l.cuts.Add(1)
		m.RecoveryPoint, m.Compacted = min(m.RecoveryPoint, end), min(m.Compacted, end)
	})
	defer l.cuts.Add(1)
	if err != nil {
		return l.judge(err)
	}
	began := false
	change := func() error {
		began = true
		if err := cut(); err != nil {
			return err
		}
		l.durable = min(l.durable, kept)
		logTruncations.Inc()
		return nil
	}
	if l.deps.Journal == nil || l.End() == 0 {
		return change()
	}
	err = l.deps.Journal.Truncate(journal.Entry{Partition: l.journaled(), Epoch: l.LastEpoch(), Base: l.End(), End: kept}, change)
	switch {
	case began || err == nil:
		return err
	case errors.Is(err, journal.ErrNoFile):
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return fmt.Errorf("commitlog: truncating %s: %w", l.dir, err)
}

// cut puts last in the place of segment at and of all after it.
func (l *Log) cut(segs []*segment, at int, last *segment, ps *Producers) error {
	end, size := record.Offset(last.end.Load()), last.size.Load()
	before := l.Size()
	if name := l.named.Load(); name != nil && slices.Contains(segs[at:], name) {
		l.named.Store(last)
	}
	l.tail.Store(&mark{offset: end, seg: last, pos: size})
	l.edit(func(segs []*segment) []*segment { return append(slices.Clone(segs[:at]), last) })
	epochs := EpochsBelow(*l.epochs.Load(), end)
	l.epochs.Store(&epochs)
	l.producers.release()
	l.producers = ps
	for _, s := range segs[at:] {
		l.grow(-s.size.Load())
	}
	l.grow(size)
	segmentsOpen.Add(-int64(len(segs) - 1 - at))
	truncatedBytes.Add(int(before - l.Size()))

	for i := len(segs) - 1; i > at; i-- {
		if err := segs[i].discard(l.trash.put); err != nil {
			return err
		}
	}
	segs[at].close()
	// Small files that are there of last, or of offsets that are no more, are of
	// no account: they lie above the recovery point.
	if err := l.forgetEpochs(end); err != nil {
		return err
	}
	if at < len(segs)-1 {
		if err := l.disk.SyncDir(l.dir); err != nil {
			return err
		}
	}
	f, err := last.acquire()
	if err != nil {
		return err
	}
	defer f.Release()
	if err := l.disk.Truncate(f.OS(), size); err != nil {
		return err
	}
	l.reserve(last)
	return l.disk.Sync(f.OS())
}

// EpochsBelow gives the epochs that began below an offset.
func EpochsBelow(epochs []record.EpochStart, end record.Offset) []record.EpochStart {
	n := len(epochs)
	for n > 0 && epochs[n-1].Start >= end {
		n--
	}
	return slices.Clone(epochs[:n])
}

// truncateEpochs is Truncate of a log that has no records at or above end: it
// may have been a leader that wrote none in its epoch.
func (l *Log) truncateEpochs(end record.Offset) error {
	old := *l.epochs.Load()
	epochs := EpochsBelow(old, end)
	if len(epochs) == len(old) {
		return nil
	}
	l.epochs.Store(&epochs)
	l.changed.Store(true)
	if err := l.forgetEpochs(end); err != nil {
		return l.judge(err)
	}
	return nil
}

// forgetEpochs sees to it that leader-epoch-checkpoint has no epoch that began
// at or above end, if it has one: the log's next epoch may be a lesser one, and
// would not count beside it. Where there is no room to write it, recovery reads
// the headers.
func (l *Log) forgetEpochs(end record.Offset) error {
	l.metaMu.Lock()
	n := len(l.savedEpochs)
	stale := n > 0 && l.savedEpochs[n-1].Start >= end
	l.metaMu.Unlock()
	if !stale {
		return nil
	}
	err := l.saveEpochs()
	if isFull(err) {
		l.metaMu.Lock()
		l.savedEpochs = nil
		l.metaMu.Unlock()
		err = l.disk.Remove(filepath.Join(l.dir, epochsName))
	}
	if err != nil {
		return err
	}
	return l.disk.SyncDir(l.dir)
}

// Beginning is what a log knows that begins anew.
type Beginning struct {
	LogStart  record.Offset       // first readable offset: what is below the log's local beginning is in object storage
	Epochs    []record.EpochStart // before the beginning, ascending
	Producers []byte              // as of .snapshot, of the beginning; nil: not known
}

// StartAt throws everything away and lets the log go on, empty, at offset at:
// for a replica that begins where object storage ends, or whose log ends below
// where the leader's begins. After a crash in the middle of it the log is as it
// was, or empty at that offset; epochs and producers may not be known then.
//
// Errors: ErrFormat when what the log is to know does not fit at; ErrFull, and
// then nothing has changed; ErrFailed.
func (l *Log) StartAt(at record.Offset, b Beginning) error {
	if err := l.usable(); err != nil {
		return err
	}
	if at < 0 || b.LogStart < 0 || b.LogStart > at {
		return fmt.Errorf("%w: a log that begins at offset %d and has records from %d on here", ErrFormat, b.LogStart, at)
	}
	for i, e := range b.Epochs {
		if e.Start > at || i > 0 && (e.Epoch <= b.Epochs[i-1].Epoch || e.Start < b.Epochs[i-1].Start) {
			return fmt.Errorf("%w: leader epoch %d from offset %d on, of a log that begins at %d", ErrFormat, e.Epoch, e.Start, at)
		}
	}
	ps := NewProducers()
	if b.Producers != nil {
		of, got, err := DecodeSnapshot(b.Producers)
		if err != nil {
			return err
		}
		if of != at {
			got.release()
			return fmt.Errorf("%w: producer snapshot of offset %d, want %d", ErrFormat, of, at)
		}
		ps = got
	} else if at > 0 {
		ps.ForgetAll()
	}
	l.swapping.Lock()
	defer l.swapping.Unlock()
	l.flush.work.Lock()
	defer l.flush.work.Unlock()
	return l.restart(at, b.LogStart, slices.Clone(b.Epochs), ps)
}

// restart is StartAt with l.swapping and l.flush.work held. It takes over ps.
// start may be above at: within the first batch.
func (l *Log) restart(at, start record.Offset, epochs []record.EpochStart, ps *Producers) error {
	// Until it is said that nothing counts any more, all of it does, and the
	// journal is told first.
	if err := l.syncData(); err != nil {
		ps.release()
		return err
	}
	done := false
	err := l.cutBack(l.End(), 0, func() error {
		if err := l.updateMeta(func(m *Meta) {
			m.Emptying, m.LocalBase, m.RecoveryPoint, m.LogStart, m.Compacted = true, at, at, start, min(m.Compacted, at)
		}); err != nil {
			if raw, rerr := os.ReadFile(filepath.Join(l.dir, metaName)); rerr == nil {
				if m, merr := DecodeMeta(raw); merr == nil && !m.Emptying {
					return l.judge(err)
				}
			}
			return l.fail(err) // the next Open may empty the folder: nothing may be added
		}
		done = true
		if err := l.beginAt(at, start, epochs, ps); err != nil {
			return l.fail(err)
		}
		return nil
	})
	if !done {
		ps.release()
	}
	return err
}

// beginAt empties the folder and begins a segment. What is removed is not kept
// for a while: there may be no room for it.
func (l *Log) beginAt(at, start record.Offset, epochs []record.EpochStart, ps *Producers) error {
	old := *l.segs.Load()
	before := l.Size()
	for _, s := range old {
		if err := s.discard(l.disk.Remove); err != nil {
			return err
		}
		l.grow(-s.size.Load())
		segmentsOpen.Add(-1)
	}
	truncatedBytes.Add(int(before - l.Size()))
	l.epochs.Store(&epochs)
	if err := l.saveEpochs(); err != nil {
		return err
	}
	first := segment{log: l, base: at}
	if at > 0 {
		if err := l.disk.Replace(first.path(snapshotSuffix), ps.encode(at)); err != nil {
			return err
		}
	}
	next, err := l.newSegment(at)
	if err != nil {
		return err
	}
	if err := l.disk.SyncDir(l.dir); err != nil {
		return err
	}
	if err := l.updateMeta(func(m *Meta) { m.Emptying = false }); err != nil {
		return err
	}
	l.named.Store(nil)
	l.producers.release()
	l.producers = ps
	l.tail.Store(&mark{offset: at, seg: next})
	l.edit(func([]*segment) []*segment { return []*segment{next} })
	l.start.Store(int64(start))
	return nil
}

// reserve takes room for the active segment, if Config.Preallocate asks for it.
// Without that room it goes on.
func (l *Log) reserve(s *segment) {
	cfg := l.cfg.Load()
	if !cfg.Preallocate || s.reserved {
		return
	}
	f, err := s.acquire()
	if err == nil {
		err = l.disk.Reserve(f.OS(), cfg.SegmentBytes)
		f.Release()
	}
	if s.reserved = err == nil; err != nil {
		l.deps.Log.Warn("no room to preallocate the active segment; it goes on without", "segment", s.path(logSuffix), "err", err)
	}
}

// ErrNotNext says that replicated batches do not follow what the log has.
var ErrNotNext = errors.New("commitlog: batches do not follow the log's end")

// AppendReplicated writes batches as their leader has them at the log's end:
// as many of entries, whose bytes buf begins with, as belong into one segment,
// and says how many that is. Their offsets ascend from End on; where the leader
// compacted offsets away there may be gaps. The first batch of a log that is
// empty here may begin below its end and reach beyond it: records were deleted
// up to the middle of it. Leader epochs do not descend. MaxTSOffset is found
// here. After an error nothing was appended: ErrFull can be tried again,
// ErrNotNext says that the batches do not follow what is here.
func (l *Log) AppendReplicated(buf []byte, entries []Entry) (int, error) {
	if err := l.usable(); err != nil {
		return 0, err
	}
	if err := l.admitStart(entries[0].Batch); err != nil {
		return 0, err
	}
	gap, err := l.follow(entries)
	if err != nil {
		return 0, err
	}
	if gap >= 0 {
		if err := l.allowGaps(gap, gapStep); err != nil {
			return 0, err
		}
	}
	entries, n := l.fitting(entries)
	if n < 0 {
		return 0, fmt.Errorf("%w: one ends at offset %d, the log at %d: too far for one segment", ErrNotNext, entries[0].Batch.LastOffset(), l.End())
	}
	latest := 0
	for i := range entries {
		b := entries[i].Batch
		entries[i].MaxTSOffset = b.BaseOffset()
		if maxTimestamp(b) > maxTimestamp(entries[latest].Batch) {
			latest = i
		}
	}
	// Only of the latest batch does it matter which record it is. One whose
	// records cannot be read is the leader's affair: its offset stands.
	b := entries[latest].Batch
	if t, ok, err := b.FirstAtOrAfter(maxTimestamp(b), 0, MaxBatchBytes); ok && err == nil && maxTimestamp(b) >= 0 {
		entries[latest].MaxTSOffset = t.Offset
	}
	return len(entries), l.put(buf[:n], entries)
}

// follow says whether batches follow what is here, and gives the first offset
// after the last gap among them, -1 for none.
func (l *Log) follow(entries []Entry) (gap record.Offset, err error) {
	gap = -1
	next := l.End()
	epoch := l.EpochAt(next - 1)
	for _, e := range entries {
		b := e.Batch
		switch o := b.BaseOffset(); {
		case o < next:
			return gap, fmt.Errorf("%w: one begins at offset %d, want %d", ErrNotNext, o, next)
		case o > next:
			gap = o
		}
		if b.LeaderEpoch() < epoch {
			return gap, fmt.Errorf("%w: one at offset %d has leader epoch %d, the one before it %d", ErrNotNext, b.BaseOffset(), b.LeaderEpoch(), epoch)
		}
		next, epoch = b.LastOffset()+1, b.LeaderEpoch()
	}
	if entries[0].Batch.LeaderEpoch() < l.LastEpoch() {
		// This replica was a leader and wrote nothing in its epoch.
		return gap, l.truncateEpochs(l.End())
	}
	return gap, nil
}

// admitStart lets an empty log begin with a batch in whose middle it begins.
func (l *Log) admitStart(first record.Batch) error {
	end := l.End()
	if first.BaseOffset() >= end || first.LastOffset() < end || end > l.LocalStart() {
		return nil
	}
	_, ps, err := DecodeSnapshot(l.producers.encode(end))
	if err != nil {
		return err
	}
	l.swapping.Lock()
	defer l.swapping.Unlock()
	l.flush.work.Lock()
	defer l.flush.work.Unlock()
	return l.restart(first.BaseOffset(), l.Start(), EpochsBelow(*l.epochs.Load(), first.BaseOffset()), ps)
}

// fitting gives as many of entries as one segment takes, at least one, and
// their bytes; -1 when not even one does.
func (l *Log) fitting(entries []Entry) ([]Entry, int64) {
	const span = 1<<31 - 1 // offsets of a segment
	most, size := l.cfg.Load().SegmentBytes, l.active().size.Load()
	bytes := entries[0].Batch.Size()
	if size+bytes > most {
		size = 0 // it rolls first
	}
	if int64(entries[0].Batch.LastOffset()-l.End()) > span {
		return entries, -1
	}
	n := 1
	for ; n < len(entries); n++ {
		b := entries[n].Batch
		if size+bytes+b.Size() > most || int64(b.LastOffset()-l.End()) > span {
			break
		}
		bytes += b.Size()
	}
	return entries[:n], bytes
}

// gapStep is how many offsets ahead gaps are allowed in a replica of a log that
// has some: partition.meta is not written for each append.
const gapStep = 1 << 16

// allowGaps notes durably that segments which begin below an offset may lack
// offsets; if it was not noted, then so many offsets ahead.
func (l *Log) allowGaps(at, ahead record.Offset) error {
	if int64(at) <= l.gapsBelow.Load() {
		return nil
	}
	at += ahead
	if err := l.updateMeta(func(m *Meta) { m.GapsBelow = max(m.GapsBelow, at) }); err != nil {
		return l.judge(err)
	}
	for {
		old := l.gapsBelow.Load()
		if old >= int64(at) || l.gapsBelow.CompareAndSwap(old, int64(at)) {
			return nil
		}
	}
}
