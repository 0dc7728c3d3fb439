package record

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// testFile makes a file of size bytes, synced, so that it can be evicted.
func testFile(t testing.TB, size int) (*File, []byte) {
	t.Helper()
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i * 7 / 3)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "segment"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	file := NewFile(f)
	t.Cleanup(file.Release)
	return file, data
}

// evict takes a range out of the page cache, and skips the test where that
// does not work.
func evict(t testing.TB, f *File, off, n int64) {
	t.Helper()
	for range 1000 { // a page that something else looks at just now stays
		if err := unix.Fadvise(int(f.f.Fd()), off, n, unix.FADV_DONTNEED); err != nil {
			t.Fatal(err)
		}
		if !isCached(f.f, off, max(n, 1)) {
			return
		}
	}
	t.Skip("this file system does not forget pages, or does not say so")
}

// takeTurns leaves no turn for a cold read until the function it gives is
// called.
func takeTurns() (giveBack func()) {
	for range coldReads {
		coldTurn <- struct{}{}
	}
	return func() {
		for range coldReads {
			<-coldTurn
		}
	}
}

// While all turns are taken, what is in memory is read and found there at
// once, and what is not waits, until there is a turn or it is told to stop.
func TestMemoryIsReadWhileDisksAreBusy(t *testing.T) {
	const size = 8 << 20
	hot, data := testFile(t, size)
	giveBack := takeTurns()
	defer giveBack()
	before := mColdReads.Get()
	got := make([]byte, size)
	if n, err := hot.ReadAt(got, 0); n != size || err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d bytes, %v", n, err)
	}
	for off := int64(0); off < size; off += 1 << 20 {
		if !hot.Cached(off, 1<<20) {
			t.Fatalf("%d is not in memory", off)
		}
	}
	if n := mColdReads.Get() - before; n != 0 {
		t.Fatalf("%d cold reads of a file in memory", n)
	}
	stop := make(chan struct{})
	var ended sync.WaitGroup
	for range 100 {
		ended.Go(func() {
			if Cold(stop, func() int { return 0 }) {
				t.Error("read without a turn")
			}
		})
	}
	close(stop)
	ended.Wait()
	if n := mColdReads.Get() - before; n != 0 || mColdQueued.Get() != 0 {
		t.Fatalf("%d cold reads, %v are queued", n, mColdQueued.Get())
	}
}

// A cold file is read right, in any pieces, and counted.
func TestColdFileIsRead(t *testing.T) {
	const size = 4<<20 + 123
	f, data := testFile(t, size)
	for _, r := range [][2]int64{{0, size}, {1, 10}, {4095, 2}, {128<<10 - 1, 1 << 20}, {size - 5, 5}} {
		evict(t, f, 0, 0)
		before := mColdReads.Get()
		got := make([]byte, r[1])
		if n, err := f.ReadAt(got, r[0]); int64(n) != r[1] || err != nil || !bytes.Equal(got, data[r[0]:r[0]+r[1]]) {
			t.Errorf("%v: %d bytes, %v", r, n, err)
		}
		if mColdReads.Get() != before+1 {
			t.Errorf("%v: %d cold reads", r, mColdReads.Get()-before)
		}
		if !f.Cached(r[0], r[1]) {
			t.Errorf("%v is not in memory after it was read", r)
		}
	}
}

// A page that is missing anywhere in a range is found where the kernel counts
// pages; where it does not, coldStride bytes that are missing are.
func TestHoleInMemoryIsFound(t *testing.T) {
	const size, page = 2 << 20, 4 << 10
	f, _ := testFile(t, size)
	if !isCached(f.f, 0, size) {
		t.Fatal("what was just written is not in memory")
	}
	if err := unix.Fadvise(int(f.f.Fd()), 0, 0, unix.FADV_RANDOM); err != nil { // no reading ahead
		t.Fatal(err)
	}
	b := make([]byte, page)
	for _, hole := range [][2]int64{{0, page}, {300 << 10, 300<<10 + page}, {size - page, size}, {300 << 10, 300<<10 + coldStride}} {
		evict(t, f, 0, 0)
		for off := int64(0); off < size; off += page {
			if off < hole[0] || off >= hole[1] {
				f.f.ReadAt(b, off)
			}
		}
		var stat unix.Cachestat_t
		counted := unix.Cachestat(uint(f.f.Fd()), &unix.CachestatRange{Len: size}, &stat, 0) == nil
		if counted && int64(stat.Cache) != (size-(hole[1]-hole[0]))/page {
			t.Fatalf("%d pages are in memory", stat.Cache)
		}
		if counted && isCached(f.f, 0, size) {
			t.Errorf("the hole %d was not found", hole)
		}
		seen := true
		for at := int64(0); at < size; at += coldStride {
			seen = seen && byteCached(f.f, at)
		}
		if seen && hole[1]-hole[0] >= coldStride {
			t.Errorf("the hole %d was not seen", hole)
		}
	}
}

// The end of a file is the end, cold or not, and a file that cannot be read
// this way says why.
func TestReadAtTheEnd(t *testing.T) {
	f, data := testFile(t, 10_000)
	for range 2 {
		b := make([]byte, 100)
		if n, err := f.ReadAt(b, 9_950); n != 50 || err != io.EOF || !bytes.Equal(b[:50], data[9_950:]) {
			t.Errorf("%d, %v", n, err)
		}
		if n, err := f.ReadAt(b, 20_000); n != 0 || err != io.EOF {
			t.Errorf("%d, %v", n, err)
		}
		if n, err := f.ReadAt(nil, 0); n != 0 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		if _, err := f.ReadAt(b, -1); err == nil {
			t.Error("a negative offset was read")
		}
		evict(t, f, 0, 0)
	}
}

// A folder has no bytes and a pipe no offsets: where memory cannot be asked,
// the plain call answers.
func TestReadOfWhatIsNoFile(t *testing.T) {
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	f := NewFile(dir)
	defer f.Release()
	if _, err := f.ReadAt(make([]byte, 10), 0); !errors.Is(err, unix.EISDIR) {
		t.Errorf("%v", err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	p := NewFile(r)
	defer p.Release()
	if _, err := p.ReadAt(make([]byte, 10), 0); !errors.Is(err, unix.ESPIPE) {
		t.Errorf("%v", err)
	}
}

// What it costs to know that 1 MiB is in memory, and to read 4 KiB of it.
func BenchmarkMemoryIsKnown(b *testing.B) {
	f, _ := testFile(b, 64<<20)
	b.Run("counted=1MiB", func(b *testing.B) {
		b.SetBytes(1 << 20)
		b.ReportAllocs()
		for off := int64(0); b.Loop(); off = (off + 1<<20) % (64 << 20) {
			f.Cached(off, 1<<20)
		}
	})
	b.Run("looks=128KiB", func(b *testing.B) {
		b.SetBytes(1 << 20)
		b.ReportAllocs()
		for off := int64(0); b.Loop(); off = (off + 1<<20) % (64 << 20) {
			for at := off; at < off+1<<20; at += coldStride {
				byteCached(f.f, at)
			}
		}
	})
	buf := make([]byte, 4096)
	b.Run("read=4KiB", func(b *testing.B) {
		b.ReportAllocs()
		for off := int64(0); b.Loop(); off = (off + 4096) % (64 << 20) {
			f.ReadAt(buf, off)
		}
	})
	b.Run("os.File.ReadAt=4KiB", func(b *testing.B) {
		b.ReportAllocs()
		for off := int64(0); b.Loop(); off = (off + 4096) % (64 << 20) {
			f.f.ReadAt(buf, off)
		}
	})
}
