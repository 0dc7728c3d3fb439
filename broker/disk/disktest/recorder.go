// Package disktest says what a power loss can leave of what was done to a
// disk: it records every call of a workload, and builds folders as they could
// be found afterwards.
package disktest

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/firnlog/firn/broker/disk"
)

// kind is what a recorded call did.
type kind int

const (
	write kind = iota
	truncate
	syncFile
	syncDir
	syncAll
	create
	rename
	remove
	mark
)

// op is one recorded call.
type op struct {
	kind kind
	file int    // whose bytes; of create: the new file
	path string // of create, remove, syncDir, and from where a rename goes
	to   string
	off  int64 // of truncate: the new length
	data []byte
	seen int // of a sync: how many calls had been made when it began
}

// Recorder is a Disk's calls, in order. Its folder must be empty when it
// begins, and nobody else may write there.
type Recorder struct {
	dir   string
	mu    sync.Mutex
	ops   []op
	inode map[uint64]int // the file that has an inode now
	files int
}

// Unsynced is the real disk, except that nothing is made durable: for states
// that are looked at and thrown away.
func Unsynced() *disk.Disk {
	d := disk.Real()
	d.Sync = func(*os.File) error { return nil }
	d.SyncAll = d.Sync
	return d
}

// Record gives a Disk that does everything and remembers it. Sync is only
// remembered.
func Record(dir string) (*disk.Disk, *Recorder) {
	r := &Recorder{dir: dir, inode: map[uint64]int{}}
	real := disk.Real()
	d := *real
	d.Create = func(path string) (*os.File, error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		f, err := real.Create(path)
		if err == nil {
			r.inode[inodeOf(f)] = r.files
			r.ops = append(r.ops, op{kind: create, file: r.files, path: r.rel(path)})
			r.files++
		}
		return f, err
	}
	d.WriteAt = func(f *os.File, b []byte, off int64) (int, error) {
		r.mu.Lock()
		r.ops = append(r.ops, op{kind: write, file: r.fileOf(f), off: off, data: slices.Clone(b)})
		r.mu.Unlock()
		return real.WriteAt(f, b, off)
	}
	d.Truncate = func(f *os.File, size int64) error {
		r.mu.Lock()
		r.ops = append(r.ops, op{kind: truncate, file: r.fileOf(f), off: size})
		r.mu.Unlock()
		return real.Truncate(f, size)
	}
	d.Sync = func(f *os.File) error {
		seen := r.Len()
		runtime.Gosched() // others write meanwhile, as they would
		r.mu.Lock()
		defer r.mu.Unlock()
		if info, err := f.Stat(); err == nil && info.IsDir() {
			if !strings.HasPrefix(f.Name(), r.dir) {
				return nil // a folder around it
			}
			r.ops = append(r.ops, op{kind: syncDir, path: r.rel(f.Name()), seen: seen})
		} else {
			r.ops = append(r.ops, op{kind: syncFile, file: r.fileOf(f), seen: seen})
		}
		return nil
	}
	d.SyncAll = func(*os.File) error {
		seen := r.Len()
		runtime.Gosched()
		r.mu.Lock()
		defer r.mu.Unlock()
		r.ops = append(r.ops, op{kind: syncAll, seen: seen})
		return nil
	}
	d.Rename = func(from, to string) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		err := real.Rename(from, to)
		if err == nil {
			r.ops = append(r.ops, op{kind: rename, path: r.rel(from), to: r.rel(to)})
		}
		return err
	}
	d.Remove = func(path string) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		err := real.Remove(path)
		if err == nil {
			r.ops = append(r.ops, op{kind: remove, path: r.rel(path)})
		}
		return err
	}
	d.Reserve = func(*os.File, int64) error { return nil }
	return &d, r
}

func inodeOf(f *os.File) uint64 {
	info, err := f.Stat()
	if err != nil {
		panic(err)
	}
	return info.Sys().(*syscall.Stat_t).Ino
}

// fileOf is the file that f is. A write to one that was not made through the
// Disk is a hole in the record.
func (r *Recorder) fileOf(f *os.File) int {
	id, ok := r.inode[inodeOf(f)]
	if !ok {
		panic(fmt.Sprintf("disktest: %s was not created through the disk", f.Name()))
	}
	return id
}

func (r *Recorder) rel(path string) string {
	rel, err := filepath.Rel(r.dir, path)
	if err != nil || strings.HasPrefix(rel, "..") {
		panic(fmt.Sprintf("disktest: %s is not in %s", path, r.dir))
	}
	return rel
}

// Mark notes that something happened, for example an acknowledgement, and
// gives how many calls had been made by then: a crash after that many or more
// comes after it.
func (r *Recorder) Mark() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ops = append(r.ops, op{kind: mark})
	return len(r.ops)
}

// Len is how many calls were recorded.
func (r *Recorder) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.ops)
}

// bytesOf is a file's content: what is durable, and what was done to it since.
type bytesOf struct {
	durable []byte
	since   []numbered
}

// numbered is a call and its place in the record.
type numbered struct {
	op
	at int
}

// Crash builds in dir what could be left when the power fails after the first
// n calls: of every file, of the writes since it was last synced, any of the
// sectors; of every folder, any of the names that changed since.
func (r *Recorder) Crash(rng *rand.Rand, n int, dir string) error {
	r.mu.Lock()
	ops := r.ops[:n]
	r.mu.Unlock()
	files := map[int]*bytesOf{}
	names := map[string]int{} // durable
	var pending []numbered    // changes of names since
	for at, o := range ops {
		switch o.kind {
		case create:
			files[o.file] = &bytesOf{}
			pending = append(pending, numbered{o, at})
		case write, truncate:
			files[o.file].since = append(files[o.file].since, numbered{o, at})
		case syncFile:
			files[o.file].sync(o.seen)
		case rename, remove:
			pending = append(pending, numbered{o, at})
		case syncDir:
			rest := pending[:0:0]
			for _, p := range pending {
				if p.at < o.seen && filepath.Dir(p.path) == o.path {
					change(names, p.op)
				} else {
					rest = append(rest, p)
				}
			}
			pending = rest
		case syncAll:
			for _, b := range files {
				b.sync(o.seen)
			}
			rest := pending[:0:0]
			for _, p := range pending {
				if p.at < o.seen {
					change(names, p.op)
				} else {
					rest = append(rest, p)
				}
			}
			pending = rest
		}
	}
	mood := rng.IntN(4)
	for _, p := range pending {
		if keep(rng, mood) {
			change(names, p.op)
		}
	}
	for name, id := range names {
		b := files[id]
		content := slices.Clone(b.durable)
		sector := []int{512, 4096}[rng.IntN(2)]
		for _, w := range b.since {
			if w.kind == truncate && !keep(rng, mood) {
				continue
			}
			content = apply(content, w.op, func() bool { return keep(rng, mood) }, sector)
		}
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// sync makes durable what was done before the seen-th call.
func (b *bytesOf) sync(seen int) {
	rest := b.since[:0:0]
	for _, w := range b.since {
		if w.at < seen {
			b.durable = apply(b.durable, w.op, func() bool { return true }, 1<<30)
		} else {
			rest = append(rest, w)
		}
	}
	b.since = rest
}

// keep decides whether something unsynced is there: nothing, all, most, or
// every second.
func keep(rng *rand.Rand, mood int) bool {
	switch mood {
	case 0:
		return false
	case 1:
		return true
	case 2:
		return rng.IntN(16) > 0
	}
	return rng.IntN(2) == 0
}

// apply does o to content, as far as its sectors are kept. A file that grew
// without the bytes being there has zeroes.
func apply(content []byte, o op, kept func() bool, size int) []byte {
	if o.kind == truncate {
		if o.off <= int64(len(content)) {
			return content[:o.off]
		}
		return append(content, make([]byte, o.off-int64(len(content)))...)
	}
	for at := 0; at < len(o.data); {
		pos := int(o.off) + at
		end := min(len(o.data), at+size-pos%size)
		if kept() {
			if grow := pos + end - at - len(content); grow > 0 {
				content = append(content, make([]byte, grow)...)
			}
			copy(content[pos:], o.data[at:end])
		}
		at = end
	}
	return content
}

// change applies one change of names.
func change(names map[string]int, o op) {
	switch o.kind {
	case create:
		names[o.path] = o.file
	case remove:
		delete(names, o.path)
	case rename:
		if id, ok := names[o.path]; ok {
			names[o.to] = id
			delete(names, o.path)
		}
	}
}

// Flip changes one bit of one of the files below dir that match, and says
// where; false when they are all empty.
func Flip(rng *rand.Rand, dir string, match func(path string) bool) (string, bool) {
	var paths []string
	var sizes []int64
	total := int64(0)
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !match(path) {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		paths, sizes = append(paths, path), append(sizes, info.Size())
		total += info.Size()
		return nil
	})
	if total == 0 {
		return "", false
	}
	at := rng.Int64N(total)
	for i, size := range sizes {
		if at >= size {
			at -= size
			continue
		}
		raw, err := os.ReadFile(paths[i])
		if err != nil {
			return "", false
		}
		bit := rng.IntN(8)
		raw[at] ^= 1 << bit
		if err := os.WriteFile(paths[i], raw, 0o644); err != nil {
			return "", false
		}
		return fmt.Sprintf("bit %d of byte %d of %s", bit, at, paths[i]), true
	}
	return "", false
}
