package journal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/firnlog/firn/broker/disk"
	"github.com/firnlog/firn/record"
)

// DamagedError says where a journal is damaged in a way that no power loss
// explains: records that were acknowledged may be gone from it.
type DamagedError struct {
	Path     string
	Position int64
	Err      error
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("journal: %s is damaged at byte %d: %v; records acknowledged as durable are in what cannot be read, so the broker does not start: bring the folder back from a copy of this disk, or, to go on without these records, move the journal's folder away", e.Path, e.Position, e.Err)
}

func (e *DamagedError) Unwrap() error { return e.Err }

// Ref is where a record of the journal is. Its End may be in the payload,
// between two batches: the log was cut back to there.
type Ref struct {
	Entry
	file   *file
	pos    int64
	length uint32
	crc    uint32
}

// Len is the size of the record's payload in bytes.
func (r Ref) Len() int { return int(r.length) }

// scan is the work of reading a journal's folder.
type scan struct {
	dir        string
	checkpoint *Checkpoint // nil: the folder is new
	id         ID
	files      []*file // all, by name
	live       []*file // those that are needed, by generation
	newest     int64   // generation
	sequence   int64   // of the next group
	refs       map[Partition][]Ref
	truncated  map[Partition][]*file       // files which say that a log was cut back
	synced     map[Partition]record.Offset // as Checkpoint's, and what groups say
	reader     reader
}

// run reads everything.
func (s *scan) run() error {
	if err := s.readCheckpoint(); err != nil || s.checkpoint == nil {
		return err
	}
	if err := s.list(); err != nil {
		return err
	}
	if err := s.choose(); err != nil {
		return err
	}
	for i, f := range s.live {
		cause, err := s.readFile(f)
		if err != nil {
			return err
		}
		last := i == len(s.live)-1
		switch {
		case !last && s.live[i+1].first == s.sequence:
			// Every group of this file is there.
		case !last && s.live[i+1].generation == f.generation+1:
			return &DamagedError{f.path, f.end, fmt.Errorf("%w (the file after it begins with group %d, this one has those before %d)", cause, s.live[i+1].first, s.sequence)}
		default: // the last, or the files between this one and the next were not needed any more
			if err := s.expectNothing(f, f.end, f.generation, cause); err != nil {
				return err
			}
			if !last {
				s.sequence = s.live[i+1].first
			}
		}
	}
	return s.expectNoneNewer()
}

func (s *scan) readCheckpoint() error {
	raw, err := os.ReadFile(filepath.Join(s.dir, checkpointName))
	if errors.Is(err, fs.ErrNotExist) {
		return s.expectNoFiles()
	}
	if err != nil {
		return err
	}
	c, err := DecodeCheckpoint(raw)
	if err != nil {
		return &DamagedError{filepath.Join(s.dir, checkpointName), 0, err}
	}
	s.checkpoint, s.id, s.newest, s.synced = c, c.Journal, c.Last, c.Synced
	return nil
}

// expectNoFiles is for a folder without a checkpoint: a journal writes one
// before it makes its first file.
func (s *scan) expectNoFiles() error {
	names, err := filepath.Glob(filepath.Join(s.dir, "*"+fileSuffix))
	if err != nil || len(names) == 0 {
		return err
	}
	return &DamagedError{filepath.Join(s.dir, checkpointName), 0, fmt.Errorf("%w: there are files, and no checkpoint that says which are needed", disk.ErrFormat)}
}

// list finds the files and reads the first group of each.
func (s *scan) list() error {
	names, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range names {
		stem, ok := strings.CutSuffix(e.Name(), fileSuffix)
		number, err := strconv.Atoi(stem)
		if !ok || err != nil || number <= 0 {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		f := &file{path: filepath.Join(s.dir, e.Name()), number: number, size: info.Size()}
		if err := s.readFirst(f); err != nil {
			return err
		}
		s.files = append(s.files, f)
	}
	return nil
}

// readFirst takes a file's generation from its first group. A file without
// one is free, or its first group is torn or damaged.
func (s *scan) readFirst(f *file) error {
	of, err := os.Open(f.path)
	if err != nil {
		return err
	}
	defer of.Close()
	g, _, err := s.readGroup(of, f.size, 0, 0)
	if errors.Is(err, disk.ErrFormat) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading %s: %w", f.path, err)
	}
	f.generation, f.first = g.generation, g.sequence
	return nil
}

// choose finds the files that are needed.
func (s *scan) choose() error {
	byGeneration := map[int64]*file{}
	for _, f := range s.files {
		if f.generation == 0 {
			continue
		}
		if other := byGeneration[f.generation]; other != nil {
			return &DamagedError{f.path, 0, fmt.Errorf("%w: generation %d is also that of %s", disk.ErrFormat, f.generation, filepath.Base(other.path))}
		}
		byGeneration[f.generation] = f
		s.newest = max(s.newest, f.generation)
	}
	wanted := slices.Clone(s.checkpoint.Needed)
	for g := s.checkpoint.Last + 1; g <= s.newest; g++ {
		wanted = append(wanted, g)
	}
	for _, g := range wanted {
		f := byGeneration[g]
		if f == nil {
			return &DamagedError{s.dir, 0, fmt.Errorf("%w: the file of generation %d is missing, or its first group is damaged", disk.ErrFormat, g)}
		}
		s.live = append(s.live, f)
	}
	s.sequence = s.checkpoint.Sequence
	if len(s.live) > 0 {
		s.sequence = s.live[0].first
	}
	return nil
}

// readFile takes in the groups of a file up to the first that does not count,
// and says why that does not.
func (s *scan) readFile(f *file) (cause, err error) {
	of, err := os.Open(f.path)
	if err != nil {
		return nil, err
	}
	defer of.Close()
	for f.end = 0; ; {
		g, b, err := s.readGroup(of, f.size, f.end, f.generation)
		if err == nil && g.sequence != s.sequence {
			err = fmt.Errorf("%w: group %d, want %d", disk.ErrFormat, g.sequence, s.sequence)
		}
		if err == nil {
			err = g.check(b)
		}
		if errors.Is(err, disk.ErrFormat) {
			return err, nil
		}
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", f.path, err)
		}
		for _, e := range g.entries {
			s.add(f, f.end, e)
		}
		s.sequence++
		f.end += g.length
	}
}

// reader reads groups into memory that it uses again.
type reader struct{ buf []byte }

// group reads the group at a position, if it is of a generation, 0 for any;
// its payloads are not checked. The bytes are valid until the next call.
// Errors wrap disk.ErrFormat, or are the file's.
func (rd *reader) group(r io.ReaderAt, size, pos, generation int64) (group, []byte, error) {
	if cap(rd.buf) < disk.Block {
		rd.buf = make([]byte, 1<<20)
	}
	head := rd.buf[:disk.Block]
	if pos+disk.Block > size {
		return group{}, nil, fmt.Errorf("%w: the file ends", disk.ErrFormat)
	}
	if _, err := r.ReadAt(head, pos); err != nil {
		return group{}, nil, err
	}
	n, ok := groupLength(head, generation)
	if !ok || n > size-pos {
		return group{}, nil, fmt.Errorf("%w: no group of generation %d begins here", disk.ErrFormat, generation)
	}
	if int64(cap(rd.buf)) < n {
		rd.buf = make([]byte, n)
	}
	b := rd.buf[:n]
	if _, err := r.ReadAt(b, pos); err != nil {
		return group{}, nil, err
	}
	g, err := parseGroup(b)
	return g, b, err
}

// readGroup reads a group of this journal.
func (s *scan) readGroup(of *os.File, size, pos, generation int64) (group, []byte, error) {
	g, b, err := s.reader.group(of, size, pos, generation)
	if err == nil && g.journal != s.id {
		err = fmt.Errorf("%w: the group is of another journal", disk.ErrFormat)
	}
	return g, b, err
}

// add takes a record in. Groups are in the order in which things happened, so
// what a record, or a truncation, finds at or above where it begins counts no
// more: its log was cut back in between. Leader epochs are not looked at: after
// an unclean election the later record may have the lesser one.
func (s *scan) add(f *file, at int64, e entry) {
	p := e.Partition
	if held := s.checkpoint.Held; len(held) > 0 && f.generation <= s.checkpoint.Last && !slices.Contains(held, p) {
		return // older than what the checkpoint says of it
	}
	if e.length > 0 {
		s.refs[p] = append(cutBack(s.refs[p], e.Base), Ref{
			Entry: e.Entry, file: f, pos: at + int64(e.pos), length: e.length, crc: e.crc,
		})
		return
	}
	e.settle(s.synced)
	if !e.Truncates() {
		return
	}
	if refs := cutBack(s.refs[p], e.End); len(refs) > 0 {
		s.refs[p] = refs
	} else {
		delete(s.refs, p)
		delete(s.truncated, p)
	}
	s.truncated[p] = append(s.truncated[p], f)
}

// cutBack gives what of refs lies below an offset.
func cutBack(refs []Ref, at record.Offset) []Ref {
	n := len(refs)
	for n > 0 && refs[n-1].Base >= at {
		n--
	}
	if n > 0 {
		refs[n-1].End = min(refs[n-1].End, at)
	}
	return refs[:n]
}

// expectNothing looks for whole groups behind the journal's end in a file:
// one that follows the first that does not count proves that this one had
// been made durable.
func (s *scan) expectNothing(f *file, from, generation int64, cause error) error {
	of, err := os.Open(f.path)
	if err != nil {
		return err
	}
	defer of.Close()
	for pos := from; pos+disk.Block <= f.size; pos += disk.Block {
		g, _, err := s.readGroup(of, f.size, pos, generation)
		if err == nil && g.sequence > s.sequence {
			return &DamagedError{f.path, from, fmt.Errorf("%w (group %d should be here, and group %d follows at byte %d)", cause, s.sequence, g.sequence, pos)}
		}
		if err != nil && !errors.Is(err, disk.ErrFormat) {
			return fmt.Errorf("reading %s: %w", f.path, err)
		}
	}
	return nil
}

// expectNoneNewer looks into the files that begin with no group for one of
// the generation that was about to begin.
func (s *scan) expectNoneNewer() error {
	for _, f := range s.files {
		if f.generation != 0 {
			continue
		}
		cause := fmt.Errorf("%w: its first group is not whole", disk.ErrFormat)
		if err := s.expectNothing(f, 0, s.newest+1, cause); err != nil {
			return err
		}
	}
	return nil
}

// read gives the payload of a record and compares its checksum again.
func (r Ref) read() ([]byte, error) {
	of, err := os.Open(r.file.path)
	if err != nil {
		return nil, err
	}
	defer of.Close()
	b := make([]byte, r.length)
	if _, err := of.ReadAt(b, r.pos); err != nil {
		return nil, fmt.Errorf("reading %s: %w", r.file.path, err)
	}
	if got := record.CRC32C(b); got != r.crc {
		return nil, &DamagedError{r.file.path, r.pos, fmt.Errorf("%w: record's stored crc %08x, computed %08x", disk.ErrFormat, r.crc, got)}
	}
	return b, nil
}
