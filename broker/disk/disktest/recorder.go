// Package disktest says what a power loss can leave of what was done to a
// disk: it records every call of a workload, and builds folders as they could
// be found afterwards.
package disktest

import (
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

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

// Recorder is a Disk's calls, in order. Nobody else may write to its folder.
type Recorder struct {
	dir   string
	found map[string]int // names that were there before, and
	bytes map[int][]byte // what the files had

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

// Dir is a new folder for the length of a test, in memory where the system
// offers that: making files on a disk is most of what a state costs.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "firn-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// Record gives a Disk that does everything and remembers it. Sync is only
// remembered. What is in the folder already counts as durable.
func Record(dir string) (*disk.Disk, *Recorder) {
	r := &Recorder{dir: dir, inode: map[uint64]int{}, found: map[string]int{}, bytes: map[int][]byte{}}
	r.findFiles()
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

// findFiles takes in what is in the folder.
func (r *Recorder) findFiles() {
	err := filepath.WalkDir(r.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		raw, err := io.ReadAll(f)
		if err != nil {
			return err
		}
		r.inode[inodeOf(f)], r.found[r.rel(path)], r.bytes[r.files] = r.files, r.files, raw
		r.files++
		return nil
	})
	if err != nil {
		panic(fmt.Sprintf("disktest: %s: %v", r.dir, err))
	}
}

// RemoveAll notes that every file below a folder is removed, in any order, and
// leaves doing that to the caller: os.RemoveAll goes past the Disk.
func (r *Recorder) RemoveAll(dir string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			r.ops = append(r.ops, op{kind: remove, path: r.rel(path)})
		}
		return nil
	})
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
// n calls.
func (r *Recorder) Crash(rng *rand.Rand, n int, dir string) error {
	p := r.Replay()
	p.To(n)
	return p.Crash(rng, dir)
}

// Replay goes through a record, once and forward, and builds what is left at
// any place of it.
type Replay struct {
	r       *Recorder
	at      int
	files   map[int]*bytesOf
	names   map[string]int // durable
	pending []numbered     // changes of names since
}

// Replay begins before the first call.
func (r *Recorder) Replay() *Replay {
	p := &Replay{r: r, files: map[int]*bytesOf{}, names: maps.Clone(r.found)}
	for id, b := range r.bytes {
		p.files[id] = &bytesOf{durable: slices.Clone(b)}
	}
	return p
}

// To goes on until n calls were made; n is not less than the time before.
func (p *Replay) To(n int) {
	p.r.mu.Lock()
	ops := p.r.ops[:n]
	p.r.mu.Unlock()
	for ; p.at < n; p.at++ {
		at, o := p.at, ops[p.at]
		switch o.kind {
		case create:
			p.files[o.file] = &bytesOf{}
			p.pending = append(p.pending, numbered{o, at})
		case write, truncate:
			p.files[o.file].since = append(p.files[o.file].since, numbered{o, at})
		case syncFile:
			p.files[o.file].sync(o.seen)
		case rename, remove:
			p.pending = append(p.pending, numbered{o, at})
		case syncDir:
			p.settle(func(c numbered) bool { return c.at < o.seen && filepath.Dir(c.path) == o.path })
		case syncAll:
			for _, b := range p.files {
				b.sync(o.seen)
			}
			p.settle(func(c numbered) bool { return c.at < o.seen })
		}
	}
}

// settle makes changes of names durable.
func (p *Replay) settle(which func(numbered) bool) {
	rest := p.pending[:0:0]
	for _, c := range p.pending {
		if which(c) {
			change(p.names, c.op)
		} else {
			rest = append(rest, c)
		}
	}
	p.pending = rest
}

// Crash builds in dir what could be left when the power fails now: of every
// file, of the writes since it was last synced, any of the sectors; of every
// folder, any of the names that changed since.
func (p *Replay) Crash(rng *rand.Rand, dir string) error {
	mood := rng.IntN(4)
	return p.build(func() bool { return keep(rng, mood) }, func() int { return []int{512, disk.Block}[rng.IntN(2)] }, dir)
}

// Kill builds in dir what is left when the process ends now, and the machine
// does not: everything.
func (p *Replay) Kill(dir string) error {
	return p.build(func() bool { return true }, func() int { return disk.Block }, dir)
}

func (p *Replay) build(kept func() bool, sector func() int, dir string) error {
	names := maps.Clone(p.names)
	for _, c := range p.pending {
		if kept() {
			change(names, c.op)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		b := p.files[names[name]]
		content := slices.Clone(b.durable)
		size := sector()
		for _, w := range b.since {
			if w.kind == truncate && !kept() {
				continue
			}
			content = apply(content, w.op, kept, size)
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
// where, the path last; false when they are all empty.
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
