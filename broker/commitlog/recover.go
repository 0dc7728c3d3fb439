package commitlog

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/firnlog/firn/broker/commitlog/journal"
	"github.com/firnlog/firn/broker/disk"
	"github.com/firnlog/firn/record"
)

// ErrOtherTopic says that the folder belongs to a topic with another id.
var ErrOtherTopic = errors.New("commitlog: folder belongs to another topic")

// ErrMissing says that segments which were on disk for good are not there.
var ErrMissing = errors.New("commitlog: synced segments are missing")

// Open opens or makes the folder of one partition, and repairs what a crash
// may leave behind. A log that was closed properly is opened without reading
// its records. Errors: ErrOtherTopic, *CorruptError, ErrMissing, or of the
// file system.
func Open(dir string, id record.TopicID, cfg Config, deps Deps) (*Log, error) {
	if deps.Log == nil {
		deps.Log = slog.Default()
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	l := &Log{dir: dir, id: id, deps: deps, disk: deps.Disk, producers: NewProducers()}
	if l.disk == nil {
		l.disk = disk.Real()
	}
	l.flush.log, l.trash.log = l, l
	l.SetConfig(cfg)
	l.epochs.Store(&[]record.EpochStart{})
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	r := recovery{l: l}
	err := r.run(id)
	if err != nil {
		l.closed.Store(true)
		l.flush.stop()
		for _, s := range r.segs {
			s.close()
		}
		l.producers.release()
		return nil, fmt.Errorf("opening %s: %w", dir, err)
	}
	r.did.note(&r)
	l.recovered = r.did
	r.prepareActive()
	segmentsOpen.Add(int64(len(r.segs)))
	l.size.Store(0)
	for _, s := range r.segs {
		l.grow(s.size.Load())
	}
	for _, s := range r.scanned {
		l.flush.add(s)
	}
	return l, nil
}

// recovery is the work of one Open.
type recovery struct {
	l         *Log
	segs      []*segment
	snapshots []record.Offset
	scanned   []*segment // sealed segments whose small files have to be written
	fresh     bool       // the folder was empty
	did       Recovered

	synced     record.Offset // up to where segments are durable; partition.meta's recovery point, below which their small files are too, may be lower
	refs       []journal.Ref // what the journal has and was not looked at
	journalEnd record.Offset // after the last record that it has, 0 for none
}

func (r *recovery) run(id record.TopicID) error {
	if err := r.list(); err != nil {
		return err
	}
	if r.l.deps.Journal != nil {
		r.refs = r.l.deps.Journal.Records(r.l.journaled())
		for _, ref := range r.refs {
			r.journalEnd = max(r.journalEnd, ref.End)
		}
	}
	if err := r.loadMeta(id); err != nil {
		return err
	}
	if err := r.empty(); err != nil {
		return err
	}
	if err := r.trustJournal(); err != nil {
		return err
	}
	r.l.gapsBelow.Store(int64(r.l.meta.GapsBelow))
	r.loadEpochs()
	if err := r.openSegments(); err != nil {
		return err
	}
	l := r.l
	if err := r.skipToLogStart(); err != nil {
		return err
	}
	active := r.segs[len(r.segs)-1]
	end := record.Offset(active.end.Load())
	l.segs.Store(&r.segs)
	l.tail.Store(&mark{offset: end, seg: active, pos: active.size.Load()})
	l.start.Store(int64(l.meta.LogStart))
	l.durable = min(max(r.synced, r.journalEnd), end)
	if l.deps.Journal == nil {
		l.durable = end
	}
	epochs := EpochsBelow(*l.epochs.Load(), end+1) // the last may have begun at the end
	l.epochs.Store(&epochs)
	if err := l.forgetEpochs(end + 1); err != nil { // they went with a tail that was lost
		return err
	}
	r.removeStaleSnapshots(end)
	if r.fresh || r.did.Clean {
		return nil
	}
	// What was removed now, or by a process that was killed, must not come back
	// in a later crash, behind other records; nor what that cut off the last
	// segment's file and did not sync.
	if l.deps.Journal != nil && l.deps.Journal.WasCut(l.journaled()) {
		f, err := r.segs[len(r.segs)-1].acquire()
		if err != nil {
			return err
		}
		defer f.Release()
		if err := l.disk.Sync(f.OS()); err != nil {
			return err
		}
	}
	return l.disk.SyncDir(l.dir)
}

// prepareActive gives the active segment what newSegment gives a new one.
func (r *recovery) prepareActive() {
	s := r.segs[len(r.segs)-1]
	if s.jitter == 0 {
		s.jitter = r.l.cfg.Load().jitter()
	}
	r.l.reserve(s)
}

// list finds the segments and clears away what was never finished.
func (r *recovery) list() error {
	if err := r.finishSwaps(); err != nil {
		return err
	}
	names, err := os.ReadDir(r.l.dir)
	if err != nil {
		return err
	}
	r.fresh = true
	for _, e := range names {
		name := e.Name()
		stem, suffix, _ := strings.Cut(name, ".")
		suffix = "." + suffix
		switch {
		case strings.HasSuffix(name, tmpSuffix) || strings.HasSuffix(name, deletedSuffix) || strings.HasSuffix(name, cleanedSuffix):
			if err := r.l.disk.Remove(filepath.Join(r.l.dir, name)); err != nil {
				return err
			}
			r.did.Removed = append(r.did.Removed, name)
			continue
		case name == metaName || name == epochsName:
			r.fresh = false
			continue
		}
		base, err := strconv.ParseInt(stem, 10, 64)
		if err != nil || len(stem) != 20 {
			continue
		}
		switch suffix {
		case logSuffix:
			st, err := os.Stat(filepath.Join(r.l.dir, name)) // Verify has links
			if err != nil {
				return err
			}
			s := &segment{log: r.l, base: record.Offset(base), created: st.ModTime(), written: st.ModTime(), firstTS: -1}
			s.size.Store(st.Size())
			s.known.doubt(st.Size())
			r.segs = append(r.segs, s)
			r.fresh = false
		case snapshotSuffix:
			r.snapshots = append(r.snapshots, record.Offset(base))
		}
	}
	slices.SortFunc(r.segs, func(a, b *segment) int { return int(min(max(a.base-b.base, -1), 1)) })
	slices.Sort(r.snapshots)
	return nil
}

func (r *recovery) loadMeta(id record.TopicID) error {
	l := r.l
	raw, err := os.ReadFile(filepath.Join(l.dir, metaName))
	if err == nil {
		l.meta, err = DecodeMeta(raw)
	}
	switch {
	case err == nil:
		if l.meta.TopicID != id {
			return fmt.Errorf("%w: it has id %v, want %v", ErrOtherTopic, l.meta.TopicID, id)
		}
		return nil
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrFormat):
		m := Meta{TopicID: id}
		if n := len(r.segs); n > 0 {
			m.LogStart, m.GapsBelow = r.segs[0].base, r.segs[n-1].base+1
		}
		if len(r.refs) > 0 {
			m.LogStart = min(m.LogStart, r.refs[0].Base)
		}
		if !r.fresh {
			r.did.Anew = append(r.did.Anew, metaName)
			l.deps.Log.Warn("partition.meta is missing or damaged, taking the segments' word", "dir", l.dir, "cause", err, "log_start", m.LogStart)
		}
		// A new folder is not synced: if it is lost, nothing was in it.
		f := *l.disk
		f.Sync = func(*os.File) error { return nil }
		if err := f.Replace(filepath.Join(l.dir, metaName), m.encode()); err != nil {
			return err
		}
		l.meta = m
		return nil
	}
	return err
}

// empty finishes what StartAt began: nothing in the folder counts.
func (r *recovery) empty() error {
	l := r.l
	if !l.meta.Emptying {
		return nil
	}
	for _, s := range r.segs {
		if err := r.remove(s); err != nil {
			return err
		}
	}
	r.segs = nil
	stale := []string{filepath.Join(l.dir, epochsName)}
	for _, at := range r.snapshots {
		s := segment{log: l, base: at}
		stale = append(stale, s.path(snapshotSuffix))
	}
	for _, path := range stale {
		if err := l.disk.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := l.disk.SyncDir(l.dir); err != nil {
		return err
	}
	return l.updateMeta(func(m *Meta) { m.Emptying = false })
}

func (r *recovery) loadEpochs() {
	raw, err := os.ReadFile(filepath.Join(r.l.dir, epochsName))
	if err == nil {
		var epochs []record.EpochStart
		if epochs, err = DecodeEpochs(raw); err == nil {
			r.l.epochs.Store(&epochs)
			r.l.savedEpochs = epochs
			return
		}
	}
	if len(r.segs) > 0 && !errors.Is(err, fs.ErrNotExist) {
		r.did.Anew = append(r.did.Anew, epochsName)
		r.l.deps.Log.Warn("leader-epoch-checkpoint is damaged, reading epochs from the records", "dir", r.l.dir, "cause", err)
	}
	r.epochsFromHeaders()
}

// epochsFromHeaders finds the epochs of segments that will not be scanned.
func (r *recovery) epochsFromHeaders() {
	for i, s := range r.segs {
		if i+1 == len(r.segs) || r.segs[i+1].base > r.l.meta.RecoveryPoint {
			if !r.l.meta.Clean {
				return // scanned later
			}
		}
		f, err := s.acquire()
		if err != nil {
			return
		}
		// Damage is reported by whoever reads the segment.
		_ = s.walk(f.OS(), 0, s.size.Load(), func(h record.Batch, _ int64) bool {
			r.l.AssignEpoch(h.LeaderEpoch(), h.BaseOffset())
			return true
		})
		f.Release()
	}
}

// openSegments decides which segments are trusted and which are scanned.
func (r *recovery) openSegments() error {
	l, m := r.l, r.l.meta
	if len(r.segs) == 0 {
		at := max(m.LocalBase, r.synced, r.batchesFrom(m.LogStart))
		if r.synced > m.LocalBase {
			r.did.Missing = Range{max(m.LocalBase, m.LogStart), r.synced}
			l.deps.Log.Error("all segments are missing; going on after what was synced, so that no offset is used twice", "dir", l.dir, "offset", at)
			l.producers.ForgetAll()
		}
		s, err := l.newSegment(at)
		if err != nil {
			return err
		}
		segmentsOpen.Add(-1) // Open counts
		l.changed.Store(true)
		r.segs = []*segment{s}
		if r.journalEnd > at {
			return r.scanAll()
		}
		return nil
	}
	for i, s := range r.segs[:len(r.segs)-1] {
		s.end.Store(int64(r.segs[i+1].base))
	}
	last := r.segs[len(r.segs)-1]
	if m.Clean && r.journalEnd <= m.End && m.ActiveBase == last.base && m.ActiveSize == last.size.Load() {
		if err := r.openClean(last); err == nil {
			r.did.Clean = true
			return nil
		} else if !errors.Is(err, ErrFormat) && !errors.Is(err, fs.ErrNotExist) {
			return err
		} else {
			r.did.Anew = append(r.did.Anew, filepath.Base(last.path(".*index")))
			l.deps.Log.Warn("closed properly, but its small files do not fit: scanning the active segment", "dir", l.dir, "cause", err)
			l.producers.release()
			l.producers = NewProducers()
		}
	}
	l.changed.Store(true)
	recoveries.Inc()
	return r.scanAll()
}

// skipToLogStart begins anew at the log's start when all local records are
// below it: they were deleted, and the tail after them was lost.
func (r *recovery) skipToLogStart() error {
	l := r.l
	if record.Offset(r.segs[len(r.segs)-1].end.Load()) >= l.meta.LogStart {
		return nil
	}
	for _, s := range r.segs {
		if err := r.remove(s); err != nil {
			return err
		}
	}
	s, err := l.newSegment(l.meta.LogStart)
	if err != nil {
		return err
	}
	segmentsOpen.Add(-1) // Open counts
	l.changed.Store(true)
	l.producers.ForgetAll()
	r.segs, r.scanned = []*segment{s}, nil
	return nil
}

// openClean takes the active segment's state from the files that Close wrote.
func (r *recovery) openClean(s *segment) error {
	s.end.Store(int64(r.l.meta.End))
	times, sum, err := s.readTimes()
	if err != nil {
		return err
	}
	f, err := os.Open(s.path(indexSuffix))
	if err != nil {
		return err
	}
	defer f.Close()
	offsets, err := s.readIndex(f)
	if err != nil {
		return err
	}
	var aborted []record.AbortedTxn
	if sum.Aborted > 0 {
		raw, err := os.ReadFile(s.path(txnSuffix))
		if err != nil {
			return err
		}
		if _, aborted, err = DecodeTxnIndex(raw); err != nil {
			return err
		}
	}
	end := segment{log: r.l, base: r.l.meta.End}
	ps, err := readSnapshot(end.path(snapshotSuffix), end.base)
	if err != nil {
		return err
	}
	r.l.producers = ps
	x := newLiveIndex()
	x.offsets.Store(&offsets)
	x.times.Store(&times)
	x.aborted.Store(&aborted)
	x.sum = sum
	s.live.Store(x)
	return s.loadFirst()
}

// loadFirst finds what rolling by time needs of the first batch.
func (s *segment) loadFirst() error {
	if s.size.Load() == 0 {
		return nil
	}
	f, err := s.acquire()
	if err != nil {
		return err
	}
	defer f.Release()
	err = s.walk(f.OS(), 0, s.size.Load(), func(h record.Batch, _ int64) bool {
		s.firstTS = h.MaxTimestamp()
		return false
	})
	if errors.Is(err, record.ErrCorrupt) {
		return nil // whoever reads it is told
	}
	return err
}

func readSnapshot(path string, at record.Offset) (*Producers, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	got, ps, err := DecodeSnapshot(raw)
	if err != nil {
		return nil, err
	}
	if got != at {
		ps.release()
		return nil, fmt.Errorf("%w: snapshot of offset %d, want %d", ErrFormat, got, at)
	}
	return ps, nil
}

// scanAll scans every segment that may not have been sealed, cuts a torn tail
// off, and makes indexes, leader epochs and producer state anew.
func (r *recovery) scanAll() error {
	l := r.l
	from := len(r.segs) - 1
	for from > 0 && r.segs[from].base > l.meta.RecoveryPoint {
		from--
	}
	ps, err := l.producersAt(r.segs, from)
	if err != nil {
		return err
	}
	l.producers = ps
	if err := r.saveBaseSnapshot(r.segs[from]); err != nil {
		return err
	}
	for i := from; i < len(r.segs); i++ {
		s := r.segs[i]
		if err := r.scanSegment(i); err != nil {
			return err
		}
		if i < len(r.segs)-1 {
			s.live.Load().snapshot = l.producers.encode(record.Offset(s.end.Load()))
			r.scanned = append(r.scanned, s)
		}
	}
	return nil
}

// scanSegment reads segment i with checksums. What is torn is cut off, with
// all segments after it, and what the journal has of it is written again.
func (r *recovery) scanSegment(i int) error {
	l, s := r.l, r.segs[i]
	f, err := s.acquire()
	if err != nil {
		return err
	}
	defer f.Release()
	next, good := s.base, int64(0)
	b := newBuilder(s, l.producers)
	take := func(batch record.Batch, pos int64) (bool, error) {
		if !s.follows(batch, next) || batch.LastOffset()-s.base > 1<<31-1 {
			return false, fmt.Errorf("%w: base offset %d, want %d", record.ErrCorrupt, batch.BaseOffset(), next)
		}
		if pos == 0 {
			s.firstTS = batch.MaxTimestamp()
		}
		next = batch.LastOffset() + 1
		l.AssignEpoch(batch.LeaderEpoch(), batch.BaseOffset())
		b.add(batch, pos, f.OS())
		return true, nil
	}
	for {
		var cause error
		good, cause = scan(f.OS(), good, s.size.Load(), take)
		if cause == nil {
			cause = r.expectNext(i, next)
		}
		if cause != nil && !errors.Is(cause, record.ErrCorrupt) {
			return fmt.Errorf("reading %s: %w", s.path(logSuffix), cause)
		}
		if cause != nil {
			if err := r.cutTail(i, good, next, cause); err != nil {
				return err
			}
		}
		if i+1 < len(r.segs) {
			break
		}
		size, err := r.refill(s, good, next)
		if err != nil {
			return err
		}
		if s.size.Store(size); size == good {
			break
		}
	}
	scannedBytes.Add(int(good))
	r.did.Scanned += good
	s.known.trust() // what is not sound is cut off, or the log is not opened
	b.finish(f.OS())
	s.live.Store(b.x)
	s.end.Store(int64(next))
	switch {
	case i+1 < len(r.segs):
		return nil
	case len(r.refs) > 0:
		return r.roll()
	case next < r.synced:
		return s.corrupt(good, fmt.Errorf("%w: the log ends at offset %d, %d was synced", ErrMissing, next, r.synced))
	}
	return nil
}

// expectNext says whether the segment after segment i begins where that ends.
func (r *recovery) expectNext(i int, next record.Offset) error {
	if i+1 == len(r.segs) || r.segs[i+1].base == next {
		return nil
	}
	return fmt.Errorf("%w: the segment ends at offset %d, the next one begins at %d", record.ErrCorrupt, next, r.segs[i+1].base)
}

// The search for valid batches in what looks like a torn tail compares the
// checksums of so many bytes for each byte there is, and of so many more.
const (
	searchTimes = 8
	searchFloor = 16 << 20
)

// cutTail removes what follows position good in segment i, if that can only
// be the remains of a write that never finished.
func (r *recovery) cutTail(i int, good int64, next record.Offset, cause error) error {
	l, s := r.l, r.segs[i]
	if next < r.synced {
		return s.corrupt(good, fmt.Errorf("%w (everything before offset %d was synced, so this is damage and not a torn write)", cause, r.synced))
	}
	if !l.deps.PowerLost && !r.journalGoesOn(next) {
		if err := r.expectNothingValid(i, good, next, cause); err != nil {
			return err
		}
	}
	f, err := s.acquire()
	if err != nil {
		return err
	}
	defer f.Release()
	cut := s.size.Load() - good
	if err := l.disk.Truncate(f.OS(), good); err != nil {
		return err
	}
	if err := l.disk.Sync(f.OS()); err != nil {
		return err
	}
	s.size.Store(good)
	for _, later := range r.segs[i+1:] {
		cut += later.size.Load()
		if err := later.discard(l.disk.Remove); err != nil {
			return err
		}
	}
	r.segs = r.segs[:i+1]
	tornBytes.Add(int(cut))
	r.did.Cut = append(r.did.Cut, Cut{Segment: filepath.Base(s.path(logSuffix)), Position: good, Bytes: cut, Offset: next, Cause: cause})
	l.deps.Log.Warn("cut off a torn tail", "segment", s.path(logSuffix), "position", good, "bytes", cut, "next_offset", next, "cause", cause)
	return nil
}

// expectNothingValid looks for whole batches behind what looks like a torn
// tail of segment i: where the machine did not lose power, they prove that it
// is damage.
func (r *recovery) expectNothingValid(i int, good int64, next record.Offset, cause error) error {
	s := r.segs[i]
	budget := searchFloor - searchTimes*good
	for _, later := range r.segs[i:] {
		budget += searchTimes * later.size.Load()
	}
	for _, later := range r.segs[i:] {
		from := int64(0)
		if later == s {
			from = good + 1
		}
		f, err := later.acquire()
		if err != nil {
			return err
		}
		pos, found, err := findValid(f.OS(), from, later.size.Load(), next, &budget)
		f.Release()
		if errors.Is(err, errUndecided) {
			return s.corrupt(good, fmt.Errorf("%w (%w, so damage cannot be told from a torn write; nothing was cut off)", cause, err))
		}
		if err != nil {
			return err
		}
		if found {
			return s.corrupt(good, fmt.Errorf("%w (a valid batch follows at byte %d of %s, so this is damage and not a torn write)", cause, pos, filepath.Base(later.path(logSuffix))))
		}
	}
	return nil
}

// producersAt makes the producer state at the base of segment at: from its
// snapshot, or from an earlier one and the headers in between, or from the
// headers alone.
func (l *Log) producersAt(segs []*segment, at int) (*Producers, error) {
	for i := at; i >= 0; i-- {
		ps, err := snapshotAt(segs, i)
		if err == nil {
			return ps, replayHeaders(ps, segs[i:at])
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrFormat) {
			return nil, err
		}
	}
	ps := NewProducers()
	if segs[0].base > 0 {
		ps.ForgetAll()
		l.deps.Log.Warn("no producer snapshot is left; producers of deleted records have to begin anew", "dir", l.dir, "first_segment", segs[0].base, "wanted_at", segs[at].base)
	}
	if at > 0 || segs[0].base > 0 {
		rebuiltProducers.Inc()
	}
	return ps, replayHeaders(ps, segs[:at])
}

// snapshotAt gives the producer state at the base of segment i, which may not
// be on disk yet.
func snapshotAt(segs []*segment, i int) (*Producers, error) {
	if i > 0 {
		if x := segs[i-1].live.Load(); x != nil && x.snapshot != nil {
			_, ps, err := DecodeSnapshot(x.snapshot)
			return ps, err
		}
	}
	return readSnapshot(segs[i].path(snapshotSuffix), segs[i].base)
}

// saveBaseSnapshot writes the snapshot of a segment's base if it is missing:
// the segments before it, from which the state was made anew, may go soon.
func (r *recovery) saveBaseSnapshot(s *segment) error {
	if s.base == 0 {
		return nil
	}
	ps, err := readSnapshot(s.path(snapshotSuffix), s.base)
	if err == nil {
		ps.release()
		return nil
	}
	if err = r.l.disk.Replace(s.path(snapshotSuffix), r.l.producers.encode(s.base)); isFull(err) {
		return nil
	}
	return err
}

// replayHeaders takes the batches of segments into a producer state, which it
// gives up after an error.
func replayHeaders(ps *Producers, segs []*segment) (err error) {
	defer func() {
		if err != nil {
			ps.release()
		}
	}()
	for _, s := range segs {
		f, err := s.acquire()
		if err != nil {
			return err
		}
		b := newBuilder(s, ps)
		err = s.walk(f.OS(), 0, s.size.Load(), func(h record.Batch, pos int64) bool {
			b.add(h, pos, f.OS())
			return true
		})
		f.Release()
		if err != nil {
			return err
		}
	}
	return nil
}

// removeStaleSnapshots keeps those at a segment's base or at the end.
func (r *recovery) removeStaleSnapshots(end record.Offset) {
	for _, at := range r.snapshots {
		keep := at == end && r.l.meta.Clean
		for _, s := range r.segs {
			keep = keep || s.base == at
		}
		if !keep {
			stale := segment{log: r.l, base: at}
			_ = r.l.disk.Remove(stale.path(snapshotSuffix)) // only a waste of space
		}
	}
}
