package commitlog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/firnlog/firn/broker/commitlog/journal"
	"github.com/firnlog/firn/broker/disk"
	"github.com/firnlog/firn/record"
)

// Recovered is what Open did to a folder: what a crash had left there was
// repaired.
type Recovered struct {
	Clean       bool  // the log was closed properly: its records were not read
	Scanned     int64 // bytes of batches whose checksums were compared
	Cut         []Cut
	Refilled    Range // offsets that the journal had and the segments had not
	FromJournal int64 // bytes of Refilled
	Missing     Range // offsets that were on disk for good and are gone
	Start       record.Offset
	Local       record.Offset // where the segments begin; above Start: the rest is in object storage, or gone
	End         record.Offset
	Removed     []string // files that did not count any more
	Swapped     []string // compacted segments that were about to take their place
	Anew        []string // small files that were damaged, or missing, and made anew
}

// Cut is a torn tail that was cut off.
type Cut struct {
	Segment  string        // file name
	Position int64         // where it was cut, in bytes
	Bytes    int64         // that went, of this segment and those after it
	Offset   record.Offset // that the next record gets, unless the journal has it
	Cause    error         // why what is there does not count
}

// Range is offsets, without To; empty when both are the same.
type Range struct{ From, To record.Offset }

// Recovered says what Open did.
func (l *Log) Recovered() Recovered { return l.recovered }

func (d *Recovered) refilled(from, to record.Offset, bytes int) {
	if d.FromJournal == 0 {
		d.Refilled.From = from
	}
	d.Refilled.To = to
	d.FromJournal += int64(bytes)
}

func (d *Recovered) note(r *recovery) {
	d.Start, d.Local, d.End = r.l.Start(), r.segs[0].base, r.l.End()
}

// remove deletes a segment's files and remembers that.
func (r *recovery) remove(s *segment) error {
	r.did.Removed = append(r.did.Removed, filepath.Base(s.path(logSuffix)))
	return s.discard(r.l.disk.Remove)
}

// Verified is what Verify finds.
type Verified struct {
	Recovered
	Segments int   // after recovery
	Bytes    int64 // of them
	Damage   []Damage
	Indexes  []string // files that will be made anew when they are next needed
}

// Damage is what no crash explains.
type Damage struct {
	Path     string        // the file
	Position int64         // byte in it, -1: all of it
	Offset   record.Offset // of the first record that cannot be read, -1: not known
	Refused  bool          // the log does not open; otherwise it does, and reads of that place are refused
	Err      error
}

// Verify says what Open would do to a folder, with the same deps except for
// the disk, and whether every batch and small file is sound afterwards. The
// folder is not changed: Open works on a shadow of it, made in scratch, an
// empty folder that the caller removes, and copies what it has to change. If
// dir is missing, so is the shadow's content. advance is told of bytes as
// they are checked. Errors: of ctx, and of reading dir or writing to scratch.
func Verify(ctx context.Context, dir, scratch string, id record.TopicID, cfg Config, deps Deps, advance func(int64)) (Verified, error) {
	var copies []string
	for try := 0; ; try++ {
		shadow := filepath.Join(scratch, fmt.Sprint(try))
		d, err := disk.Shadow(dir, shadow, copies)
		if err != nil {
			return Verified{}, err
		}
		deps.Disk = d
		l, err := Open(shadow, id, cfg, deps)
		if e, ok := errors.AsType[*disk.OriginalError](err); ok && len(copies) < maxCopies {
			copies = append(copies, e.Name)
			if err := os.RemoveAll(shadow); err != nil {
				return Verified{}, err
			}
			continue
		}
		if err != nil {
			return refused(dir, shadow, err)
		}
		v, err := l.verify(ctx, advance)
		l.closed.Store(true)
		l.release()
		for i := range v.Damage {
			v.Damage[i].Path = filepath.Join(dir, filepath.Base(v.Damage[i].Path))
		}
		return v, errors.Join(err, os.RemoveAll(shadow))
	}
}

// maxCopies bounds how many segments Verify copies: recovery cuts one, and
// fills that one again.
const maxCopies = 8

// refused gives the damage for which Open refuses the folder. Another error
// stays one.
func refused(dir, shadow string, err error) (Verified, error) {
	d := Damage{Path: dir, Position: -1, Offset: -1, Refused: true, Err: err}
	corrupt, ok := errors.AsType[*CorruptError](err)
	lost, inJournal := errors.AsType[*journal.DamagedError](err)
	switch {
	case ok:
		d.Path, d.Position, d.Err = filepath.Join(dir, filepath.Base(corrupt.Path)), corrupt.Position, corrupt.Err
		d.Offset = offsetAt(corrupt.Path, corrupt.Position)
	case inJournal:
		d.Path, d.Position, d.Err = lost.Path, lost.Position, lost.Err
	case errors.Is(err, ErrOtherTopic), errors.Is(err, ErrMissing), errors.Is(err, ErrFormat), errors.Is(err, record.ErrCorrupt):
	default:
		return Verified{}, err
	}
	return Verified{Damage: []Damage{d}}, os.RemoveAll(shadow)
}

// offsetAt gives the offset of the record that should be at a position of a
// segment, -1 when the batches before it do not say.
func offsetAt(path string, pos int64) record.Offset {
	f, err := os.Open(path)
	if err != nil {
		return -1
	}
	defer f.Close()
	var base int64
	if _, err := fmt.Sscanf(filepath.Base(path), "%020d", &base); err != nil {
		return -1
	}
	next := record.Offset(base)
	if _, err := scan(f, 0, pos, func(h record.Batch, _ int64) (bool, error) {
		next = h.LastOffset() + 1
		return true, nil
	}); err != nil {
		return -1
	}
	return next
}

// verify reads all of an open log.
func (l *Log) verify(ctx context.Context, advance func(int64)) (Verified, error) {
	v := Verified{Recovered: l.recovered, Bytes: l.Size(), Segments: l.NumSegments()}
	for _, s := range *l.segs.Load() {
		if record.Offset(s.end.Load()) <= l.Start() {
			continue // deleted, but not all of the files were when the power failed
		}
		d, err := s.verify(ctx, advance)
		if err != nil {
			return v, err
		}
		if d != nil {
			v.Damage = append(v.Damage, *d)
		}
		names, err := s.unfit()
		if err != nil {
			return v, err
		}
		v.Indexes = append(v.Indexes, names...)
	}
	return v, nil
}

// verify compares every batch of the segment with its checksum, and where the
// segment ends with where the next one begins.
func (s *segment) verify(ctx context.Context, advance func(int64)) (*Damage, error) {
	f, err := s.acquire()
	if err != nil {
		return nil, err
	}
	defer f.Release()
	a, err := s.check(f.OS(), area{next: s.base}, s.size.Load(), func(h record.Batch, _ int64) bool {
		advance(h.Size())
		return ctx.Err() == nil
	})
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if end := record.Offset(s.end.Load()); err == nil && a.next != end {
		err = fmt.Errorf("%w: the segment ends at offset %d, and offset %d should follow it", ErrMissing, a.next, end)
	}
	switch {
	case err == nil:
		return nil, nil
	case errors.Is(err, record.ErrCorrupt), errors.Is(err, ErrMissing):
		return &Damage{Path: s.path(logSuffix), Position: a.to, Offset: a.next, Err: err}, nil
	}
	return nil, s.damaged(a.to, err)
}

// unfit lists the segment's small files that are missing or do not fit it.
func (s *segment) unfit() (names []string, err error) {
	try := func(suffix string, err error) error {
		if errors.Is(err, ErrFormat) || errors.Is(err, fs.ErrNotExist) {
			names = append(names, filepath.Base(s.path(suffix)))
			return nil
		}
		return err
	}
	if s.base > 0 {
		ps, err := readSnapshot(s.path(snapshotSuffix), s.base)
		if err == nil {
			ps.release()
		} else if err := try(snapshotSuffix, err); err != nil {
			return nil, err
		}
	}
	if s.live.Load() != nil {
		return names, nil // in memory, and written when it is sealed
	}
	x, err := s.openIndex()
	if err == nil {
		x.file.Release()
	} else if err := try(indexSuffix, err); err != nil {
		return nil, err
	}
	_, sum, err := s.readTimes()
	if err != nil {
		err = try(timeSuffix, err)
		return names, err
	}
	if sum.Aborted == 0 {
		return names, nil
	}
	raw, err := os.ReadFile(s.path(txnSuffix))
	var aborted []record.AbortedTxn
	if err == nil {
		_, aborted, err = DecodeTxnIndex(raw)
	}
	if err == nil && len(aborted) != sum.Aborted {
		err = ErrFormat
	}
	err = try(txnSuffix, err)
	return names, err
}
