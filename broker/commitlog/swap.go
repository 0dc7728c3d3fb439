package commitlog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/firnlog/firn/record"
)

// A compacted segment takes the place of those it was made from in steps that
// may end anywhere:
//
//	<base>-<end>.log.cleaned   being written; removed at open
//	<base>-<end>.log.swap      complete and fsynced. From this rename on, the
//	                           old segments of [base, end) no longer count
//	(old files are removed, the folder is fsynced)
//	<base>.log                 renamed; its indexes are written afterwards, or
//	                           made anew when they are missing
//
// The range is in the name because the file's own last offset may be lower
// than that of the segments it replaces. The producer snapshot at base stays:
// it is the state before the segment. Those in between go.
const (
	cleanedSuffix = ".log.cleaned"
	swapSuffix    = ".log.swap"
)

func swapPath(dir string, base, end record.Offset, suffix string) string {
	return filepath.Join(dir, fmt.Sprintf("%020d-%020d%s", base, end, suffix))
}

// parseSwap reads the range from the name of a *.log.swap.
func parseSwap(name string) (base, end record.Offset, ok bool) {
	first, second, ok := strings.Cut(strings.TrimSuffix(name, swapSuffix), "-")
	b, err1 := strconv.ParseInt(first, 10, 64)
	e, err2 := strconv.ParseInt(second, 10, 64)
	return record.Offset(b), record.Offset(e), ok && err1 == nil && err2 == nil && b < e
}

// swap puts a compacted segment in the place of group, while the writer goes
// on; only deletions wait. begun says that the file has left its place under
// w.path. An error after that fails the log: what is on disk is then for the
// next Open to finish.
func (l *Log) swap(group []*segment, w *cleanWriter) (begun bool, err error) {
	l.swapping.Lock()
	defer l.swapping.Unlock()
	l.flush.work.Lock() // nobody writes the old segments' small files meanwhile
	defer l.flush.work.Unlock()
	if err := l.usable(); err != nil {
		return false, err
	}
	if l.remaining(group) < len(group) {
		return false, ErrStale
	}
	dir, err := os.Open(l.dir) // now, when it may still fail
	if err != nil {
		return false, err
	}
	defer dir.Close()
	s := w.seg
	pending := swapPath(l.dir, s.base, record.Offset(s.end.Load()), swapSuffix)
	if err := l.disk.Rename(w.path, pending); err != nil {
		return false, err
	}
	if err := l.disk.Sync(dir); err != nil {
		return true, l.fail(fmt.Errorf("swapping %s in: %w", pending, err))
	}
	l.edit(func(segs []*segment) []*segment {
		at := slices.Index(segs, group[0])
		return slices.Concat(segs[:at], []*segment{s}, segs[at+len(group):])
	})
	for _, old := range group {
		old.close() // from here on readers find the new one, whose file is open
		l.grow(-old.size.Load())
	}
	l.grow(s.size.Load())
	segmentsOpen.Add(1 - int64(len(group)))
	if err := l.finishSwap(group, pending, dir); err != nil {
		return true, l.fail(fmt.Errorf("swapping %s in: %w", pending, err))
	}
	l.flush.add(s)
	return true, nil
}

func (l *Log) finishSwap(group []*segment, pending string, dir *os.File) error {
	for i, old := range group {
		suffixes := []string{indexSuffix, timeSuffix, txnSuffix, logSuffix}
		if i > 0 {
			suffixes = append(suffixes, snapshotSuffix)
		}
		for _, suffix := range suffixes {
			if err := l.trash.put(old.path(suffix)); err != nil {
				return err
			}
		}
	}
	if err := l.disk.Sync(dir); err != nil {
		return err
	}
	if err := l.disk.Rename(pending, group[0].path(logSuffix)); err != nil {
		return err
	}
	return l.disk.Sync(dir)
}

// finishSwaps does at open what a crash kept swap from doing.
func (r *recovery) finishSwaps() error {
	names, err := os.ReadDir(r.l.dir)
	if err != nil {
		return err
	}
	for _, e := range names {
		if !strings.HasSuffix(e.Name(), swapSuffix) {
			continue
		}
		base, end, ok := parseSwap(e.Name())
		if !ok {
			return fmt.Errorf("%w: %s is no name of a compacted segment", ErrFormat, e.Name())
		}
		if err := r.finishSwap(names, e.Name(), base, end); err != nil {
			return fmt.Errorf("swapping %s in: %w", e.Name(), err)
		}
		r.did.Swapped = append(r.did.Swapped, e.Name())
		r.l.deps.Log.Info("finished the swap of a compacted segment", "dir", r.l.dir, "file", e.Name())
	}
	return nil
}

func (r *recovery) finishSwap(names []os.DirEntry, name string, base, end record.Offset) error {
	d, dir := r.l.disk, r.l.dir
	for _, e := range names {
		stem, suffix, _ := strings.Cut(e.Name(), ".")
		at, err := strconv.ParseInt(stem, 10, 64)
		if err != nil || record.Offset(at) < base || record.Offset(at) >= end {
			continue
		}
		switch "." + suffix {
		case snapshotSuffix:
			if record.Offset(at) == base {
				continue
			}
		case indexSuffix, timeSuffix, txnSuffix, logSuffix:
		default:
			continue
		}
		if err := d.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := d.SyncDir(dir); err != nil {
		return err
	}
	if err := d.Rename(filepath.Join(dir, name), filepath.Join(dir, fmt.Sprintf("%020d%s", base, logSuffix))); err != nil {
		return err
	}
	return d.SyncDir(dir)
}
