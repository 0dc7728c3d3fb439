package journal

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"runtime"
	"slices"
	"sync"

	"github.com/firnlog/firn/broker/disk"
	"github.com/firnlog/firn/record"
)

// ErrClosed says that the journal was closed.
var ErrClosed = errors.New("journal: closed")

// ErrFailed says that a write or sync of the journal failed. Nothing is
// durable from then on.
var ErrFailed = errors.New("journal: failed")

// ErrNoFile says that the disk has no room for a file of the journal, or the
// process no descriptor. It passes.
var ErrNoFile = errors.New("journal: there is no file to write to, and none can be made")

// Config is fixed while a journal is open.
type Config struct {
	FileBytes   int64 // of each file, a multiple of disk.Block; 0: 64 MiB
	Files       int   // how many files there are at most, at least 3; 0: 8
	GroupBytes  int   // of the payloads that one sync makes durable, at most; 0: 4 MiB
	GroupCount  int   // of the records that one sync makes durable, at most; 0: 4096
	CopyBytes   int   // a payload of more stays in its segment alone, which is synced with the group; 0: 256 KiB, at most GroupBytes
	SyncBytes   int   // of payloads that one group leaves in their segments, at most, one aside; 0: 16 MiB
	SyncAllFrom int   // how many logs a checkpoint flushes by syncing all of the file system; 0: 64
	WindowCount int   // of the records in files that are needed, about; 0: one million
}

func (c Config) orDefaults() Config {
	set := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	if c.FileBytes == 0 {
		c.FileBytes = 64 << 20
	}
	set(&c.Files, 8)
	set(&c.GroupBytes, 4<<20)
	set(&c.GroupCount, 4096)
	set(&c.CopyBytes, 256<<10)
	set(&c.SyncBytes, 16<<20)
	set(&c.SyncAllFrom, 64)
	set(&c.WindowCount, 1_000_000)
	c.CopyBytes = min(c.CopyBytes, c.GroupBytes)
	c.Files = max(c.Files, 3)
	return c
}

// groupMemory is the size of a group's buffer.
func (c Config) groupMemory() int {
	return int(disk.RoundUp(int64(groupHead + c.GroupBytes + 2*c.GroupCount*entrySize)))
}

// Deps are what a journal uses and does not own.
type Deps struct {
	Log *slog.Logger // nil: slog.Default
	// Failed is called once, from any goroutine, when the journal fails.
	Failed func(error)
	Disk   *disk.Disk // nil: the real one
}

// Mark is what a log wants to be told when a record is durable.
type Mark struct {
	End        record.Offset // where the log ended with the record
	LastStable record.Offset // its last stable offset then
}

// Log is a partition's log as the journal sees it.
type Log interface {
	// Journaled says that what was appended for the log is durable, up to the
	// end of the record that had this mark. The journal's goroutine calls it,
	// in the order of the appends; it must not block.
	Journaled(Mark)
	// Flush makes all that is in the log's segments now durable there and
	// says up to which offset. An error is the log's failure, which it
	// reports itself. Of a log that is closed there is nothing to do; one that
	// was deleted says -1, and nothing is remembered of it. Append may be
	// waiting meanwhile.
	Flush() (record.Offset, error)
	// End is up to where the log's segments are written, -1 when it was
	// deleted. It must not block.
	End() record.Offset
}

// Journal is an open journal. All methods may be called from any goroutine.
type Journal struct {
	dir  string
	cfg  Config
	deps Deps
	disk *disk.Disk
	id   ID

	mu     sync.Mutex // of what follows; never held across I/O
	room   sync.Cond  // of mu: filling has room, or the journal is no more
	work   sync.Cond  // of mu: filling has something, a file is free, or the journal is no more
	told   sync.Cond  // of mu: truncations are durable, or cannot be, or the journal is no more
	fill   *buffer    // takes appends
	spare  *buffer    // nil while it is being written
	err    error      // wraps ErrFailed, or nil
	ending bool       // Close was called

	free     []*file
	used     []*file // ascending by generation
	files    int     // free, used, and being made
	noRoom   error   // why the last file could not be made; nil when there is a free one
	newest   int64   // generation
	sequence int64   // of the next group
	refs     map[Partition][]Ref
	cut      map[Partition]struct{} // what WasCut says
	synced   map[Partition]record.Offset
	limits   map[Partition]*limit // of what a flush that is under way may say of logs that are cut back
	names    map[Log]Partition    // of the logs that any file in use waits for

	writing bool // the newest file is one that this process writes

	writer  sync.WaitGroup
	root    *os.File      // the folder, for disk.SyncAll
	keep    chan struct{} // wakes the keeper
	stop    chan struct{} // closed when the writer has ended
	closing sync.Once
	done    sync.WaitGroup
}

// buffer is a group in the making.
type buffer struct {
	mem     []byte // groupHead, then the payloads
	used    int
	pending int // copies under way
	entries []entry
	logs    []Log // of the entries; they wait for their segments
	marks   []marked

	large int               // bytes of payloads that are in segments alone
	flush map[Log]Partition // whose segments those are

	truncations []*truncation
}

type marked struct {
	log Log
	Mark
}

func newBuffer(c Config) *buffer {
	b := &buffer{mem: disk.AlignedBytes(c.groupMemory()), flush: map[Log]Partition{}}
	b.reset()
	return b
}

func (b *buffer) reset() {
	clear(b.logs)
	clear(b.marks)
	clear(b.flush)
	clear(b.truncations)
	b.used, b.large, b.entries, b.logs, b.marks, b.truncations = groupHead, 0, b.entries[:0], b.logs[:0], b.marks[:0], b.truncations[:0]
}

// len is how many records the group has.
func (b *buffer) len() int { return len(b.marks) + len(b.truncations) }

// Open opens the journal in dir, or makes it, and reads what it holds: Records
// says what there is of a partition, and everything has to be claimed (Claim)
// or dropped (Drop) before the files that hold it can be used again. Errors:
// *DamagedError, or of the file system.
func Open(dir string, cfg Config, deps Deps) (*Journal, error) {
	if deps.Log == nil {
		deps.Log = slog.Default()
	}
	if deps.Disk == nil {
		deps.Disk = disk.Real()
	}
	j := &Journal{
		dir: dir, cfg: cfg.orDefaults(), deps: deps, disk: deps.Disk,
		names: map[Log]Partition{}, limits: map[Partition]*limit{}, keep: make(chan struct{}, 1), stop: make(chan struct{}),
	}
	j.room.L, j.work.L, j.told.L = &j.mu, &j.mu, &j.mu
	if err := j.recover(); err != nil {
		return nil, fmt.Errorf("opening the journal %s: %w", dir, err)
	}
	var err error
	if j.root, err = os.Open(dir); err != nil {
		return nil, err
	}
	j.fill, j.spare = newBuffer(j.cfg), newBuffer(j.cfg)
	j.writer.Go(j.write)
	j.done.Go(j.keeper)
	return j, nil
}

// recover reads the folder and makes what it says of the newest records as
// durable as the rest: after a crash of the process alone they may be in the
// page cache only.
func (j *Journal) recover() error {
	if err := os.MkdirAll(j.dir, 0o755); err != nil {
		return err
	}
	s := scan{dir: j.dir, refs: map[Partition][]Ref{}, truncated: map[Partition][]*file{}}
	if err := s.run(); err != nil {
		return err
	}
	if s.checkpoint == nil {
		if _, err := rand.Read(s.id[:]); err != nil {
			return err
		}
		s.checkpoint = &Checkpoint{Journal: s.id, Sequence: 1, Synced: map[Partition]record.Offset{}}
		s.sequence, s.synced = 1, s.checkpoint.Synced
		if err := j.replaceCheckpoint(s.checkpoint); err != nil {
			return err
		}
	}
	// A crashed process may have made a file and not synced the folder.
	if err := j.disk.SyncDir(j.dir); err != nil {
		return err
	}
	for _, f := range s.live {
		if err := f.open(); err != nil {
			return err
		}
		if err := j.disk.Sync(f.out); err != nil {
			return err
		}
		f.close()
	}
	for p, refs := range s.refs {
		for _, r := range refs {
			r.file.hold(p)
		}
	}
	cut := map[Partition]struct{}{}
	for p, files := range s.truncated {
		cut[p] = struct{}{}
		for _, f := range files {
			f.hold(p)
		}
	}
	for _, f := range s.files {
		if !slices.Contains(s.live, f) {
			f.generation = 0
			if f.size == j.cfg.FileBytes {
				j.free = append(j.free, f)
			} else if err := j.disk.Remove(f.path); err != nil { // of another configuration, or half made
				return err
			}
		}
	}
	j.id, j.used, j.newest, j.sequence = s.id, s.live, s.newest, s.sequence
	j.refs, j.cut, j.synced = s.refs, cut, s.synced
	j.files = len(j.free) + len(j.used)
	return nil
}

// Records gives what the journal holds of a partition, ascending by offset.
// Records before Synced may be among them.
func (j *Journal) Records(p Partition) []Ref {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.refs[p]
}

// WasCut says that the journal knows of a truncation of a partition, in which
// the process may have been killed: what its segments look like may not be
// durable, though they end where they were cut.
func (j *Journal) WasCut(p Partition) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	_, cut := j.cut[p]
	return cut
}

// Read gives a record's payload. Errors: *DamagedError, or of the file system.
func (j *Journal) Read(r Ref) ([]byte, error) { return r.read() }

// Synced says up to which offset a partition's segments are durable, as far as
// the journal knows; 0 when it knows nothing.
func (j *Journal) Synced(p Partition) record.Offset {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.synced[p]
}

// Claim says that log has all that the journal held of its partition, in its
// segments if not yet durably there, and that the journal's part ends here.
func (j *Journal) Claim(p Partition, log Log) {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.refs, p)
	delete(j.cut, p)
	for _, f := range j.used {
		if _, ok := f.unclaimed[p]; ok {
			delete(f.unclaimed, p)
			j.waitLocked(f, p, log)
		}
	}
}

// Drop says that nobody will ask for what the journal holds of a partition.
func (j *Journal) Drop(p Partition) {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.refs, p)
	delete(j.cut, p)
	delete(j.synced, p)
	delete(j.limits, p)
	for _, f := range j.used {
		delete(f.unclaimed, p)
	}
}

// Unclaimed lists the partitions that are neither claimed nor dropped.
func (j *Journal) Unclaimed() []Partition {
	j.mu.Lock()
	defer j.mu.Unlock()
	all := maps.Clone(j.cut)
	for p := range j.refs {
		all[p] = struct{}{}
	}
	return slices.Collect(maps.Keys(all))
}

func (j *Journal) waitLocked(f *file, p Partition, log Log) {
	if f.logs == nil {
		f.logs = map[Log]struct{}{}
	}
	f.logs[log] = struct{}{}
	j.names[log] = p
}

// Append makes a record durable that is in its log's segments: it returns when
// it has a copy of the payload, or, of one larger than Config.CopyBytes, has
// noted to sync the segments (Sync). log.Journaled is called with the mark once
// the record is durable, in the order of the appends. While there is more than
// the disk has written, Append waits. Errors: ErrClosed and ErrFailed, after which
// Journaled may never be called for what was appended before.
func (j *Journal) Append(log Log, e Entry, m Mark, payload []byte) error {
	if len(payload) > j.cfg.CopyBytes {
		return j.Sync(log, e.Partition, m, len(payload))
	}
	j.mu.Lock()
	if err := j.awaitLocked(func(b *buffer) bool { return b.used+len(payload) <= groupHead+j.cfg.GroupBytes }); err != nil {
		j.mu.Unlock()
		return err
	}
	b := j.fill
	at, i := b.used, len(b.entries)
	b.used += len(payload)
	b.pending++
	b.entries = append(b.entries, entry{Entry: e, pos: uint32(at), length: uint32(len(payload))})
	b.logs = append(b.logs, log)
	b.marks = append(b.marks, marked{log, m})
	j.mu.Unlock()

	copy(b.mem[at:], payload)
	crc := record.CRC32C(payload)

	j.mu.Lock()
	defer j.mu.Unlock()
	b.entries[i].crc = crc
	if b.pending--; b.pending == 0 {
		j.work.Broadcast()
	}
	return nil
}

// Sync is Append for what is in the segments and not in the journal: the next
// group flushes the log, and says in the journal up to where that is durable.
// n is how many bytes that is, about.
func (j *Journal) Sync(log Log, p Partition, m Mark, n int) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.awaitLocked(func(b *buffer) bool { return b.large == 0 || b.large+n <= j.cfg.SyncBytes }); err != nil {
		return err
	}
	b := j.fill
	b.large += n
	b.flush[log] = p
	b.marks = append(b.marks, marked{log, m})
	j.work.Broadcast()
	return nil
}

// awaitLocked waits until the group that fills has room.
func (j *Journal) awaitLocked(fits func(*buffer) bool) error {
	for j.err == nil && !j.ending && (j.fill.len() >= j.cfg.GroupCount || !fits(j.fill)) {
		appendsWaited.Inc()
		j.room.Wait()
	}
	switch {
	case j.err != nil:
		return j.err
	case j.ending:
		return ErrClosed
	}
	return nil
}

// write is the goroutine that makes groups durable, one after the other: each
// is what was appended while the one before it was written.
func (j *Journal) write() {
	for {
		b := j.next()
		if b == nil {
			return
		}
		if err := j.flushGroup(b); err != nil {
			j.fail(err)
			return
		}
		if err := j.writeGroup(b); err != nil {
			j.fail(err)
			return
		}
		for _, m := range b.marks {
			m.log.Journaled(m.Mark)
		}
		groups.Inc()
		journaledRecords.Add(len(b.marks))
		journaledBytes.Add(b.used - groupHead)
		syncedBytes.Add(b.large)
		j.mu.Lock()
		j.tellLocked(b, nil)
		b.reset()
		j.spare = b
		j.mu.Unlock()
	}
}

// next waits for a group, and takes it once all of it is there. Nil when the
// journal ends.
func (j *Journal) next() *buffer {
	j.mu.Lock()
	defer j.mu.Unlock()
	for j.err == nil && j.fill.len() == 0 {
		if j.ending {
			return nil
		}
		j.work.Wait()
	}
	// Whoever is about to append goes first: a fast disk would otherwise get a
	// call for every few records, and the calls cost more than the bytes.
	j.mu.Unlock()
	runtime.Gosched()
	j.mu.Lock()
	b := j.fill
	j.fill, j.spare = j.spare, nil
	j.room.Broadcast()
	for b.pending > 0 {
		j.work.Wait()
	}
	if j.err != nil {
		return nil
	}
	return b
}

// flushGroup makes durable what a group left in its segments, and has the
// group say so.
func (j *Journal) flushGroup(b *buffer) error {
	if len(b.flush) == 0 {
		return nil
	}
	synced, err := flush(slices.Collect(maps.Keys(b.flush)), groupFlushers)
	if err != nil {
		return err
	}
	for log, end := range synced {
		if end >= 0 {
			b.entries = append(b.entries, entry{Entry: Entry{Partition: b.flush[log], Base: end, End: end}, pos: groupHead})
		}
	}
	return nil
}

// writeGroup makes a group durable. Truncations come last in it: what it says
// of the same log was done before.
func (j *Journal) writeGroup(b *buffer) error {
	for _, t := range b.truncations {
		b.entries = append(b.entries, entry{Entry: t.Entry, pos: groupHead})
	}
	if len(b.entries) == 0 {
		return nil // all that it had was of deleted partitions
	}
	need := disk.RoundUp(int64(b.used + len(b.entries)*entrySize))
	f, at, g, err := j.place(b, need)
	if err != nil {
		return err
	}
	if f == nil {
		return j.flushInstead(b)
	}
	if err := f.open(); err != nil {
		return err
	}
	raw := g.finish(b.mem[:b.used])
	if _, err := j.disk.WriteAt(f.out, raw, at); err != nil {
		return fmt.Errorf("writing %s at byte %d: %w", f.path, at, err)
	}
	if err := j.disk.Sync(f.out); err != nil {
		return fmt.Errorf("syncing %s: %w", f.path, err)
	}
	return nil
}

// flushInstead makes a group durable for which there is no file: in the
// segments. Logs are not cut back meanwhile.
func (j *Journal) flushInstead(b *buffer) error {
	j.mu.Lock()
	j.tellLocked(b, ErrNoFile)
	j.mu.Unlock()
	logs := map[Log]struct{}{}
	for _, l := range b.logs {
		logs[l] = struct{}{}
	}
	withoutFile.Inc()
	_, err := flush(slices.Collect(maps.Keys(logs)), groupFlushers)
	return err
}

// place waits for a file with room for a group, and gives it that room; no
// file when the disk has none for it.
func (j *Journal) place(b *buffer, need int64) (f *file, at int64, g group, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for f = j.fileLocked(need); f == nil; f = j.fileLocked(need) {
		if j.err != nil || j.noRoom != nil {
			return nil, 0, g, j.err
		}
		fullWaits.Inc()
		j.work.Wait()
	}
	at = f.end
	g = group{journal: j.id, generation: f.generation, sequence: j.sequence, entries: b.entries}
	j.sequence++
	f.end += need
	f.records += len(b.entries)
	for i, log := range b.logs {
		j.waitLocked(f, b.entries[i].Partition, log)
	}
	for _, e := range b.entries[len(b.logs):] {
		e.settle(j.synced)
	}
	for _, t := range b.truncations {
		if l := j.limits[t.Partition]; l != nil {
			l.file = f
			f.hold(t.Partition)
		}
	}
	return f, at, g, nil
}

// fileLocked gives the file to write to: the newest, or a free one when that
// has no room. Nil when there is none.
func (j *Journal) fileLocked(need int64) *file {
	if n := len(j.used); n > 0 && j.used[n-1].generation == j.newest && j.writing {
		if f := j.used[n-1]; f.end+need <= f.size {
			return f
		}
	}
	j.wakeKeeper()
	if len(j.free) == 0 {
		return nil
	}
	f := j.free[len(j.free)-1]
	j.free = j.free[:len(j.free)-1]
	j.newest++
	f.generation, f.first, f.end, f.records = j.newest, j.sequence, 0, 0
	j.used = append(j.used, f)
	j.writing = true
	return f
}

func (j *Journal) failed() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.err
}

// fail ends the journal: nothing more becomes durable.
func (j *Journal) fail(err error) {
	j.mu.Lock()
	first := j.err == nil
	if first {
		j.err = fmt.Errorf("%w: %w", ErrFailed, err)
	}
	j.room.Broadcast()
	j.work.Broadcast()
	j.told.Broadcast()
	j.mu.Unlock()
	if first {
		failures.Inc()
		if j.deps.Failed != nil {
			j.deps.Failed(err)
		}
	}
}

// Close makes durable what was appended, has every log flushed, so that the
// next Open has nothing to read, and ends the journal. Appends are refused
// from its call on. Error: why the journal failed, if it did.
func (j *Journal) Close() error {
	j.mu.Lock()
	j.ending = true
	j.room.Broadcast()
	j.work.Broadcast()
	j.mu.Unlock()
	j.writer.Wait()
	j.closing.Do(func() { close(j.stop) })
	j.done.Wait()
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, f := range slices.Concat(j.used, j.free) {
		f.close()
	}
	j.root.Close()
	return j.err
}
