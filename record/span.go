package record

import (
	"io"
	"os"
	"sync/atomic"
)

// File is an open file shared by everybody who still has bytes of it to send.
// The owner holds one reference; a reader takes one more. The descriptor is
// closed when the last is released, so that a segment may be deleted while it
// is being sent.
type File struct {
	f    *os.File
	refs atomic.Int64
}

// NewFile takes over f with one reference, the owner's.
func NewFile(f *os.File) *File {
	sf := &File{f: f}
	sf.refs.Store(1)
	return sf
}

// Acquire takes a reference. It returns false when the file is closed
// already; then the caller has none and must look the file up again.
func (sf *File) Acquire() bool {
	for {
		n := sf.refs.Load()
		if n <= 0 {
			return false
		}
		if sf.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// Release gives a reference back; the last one closes the descriptor.
func (sf *File) Release() {
	switch n := sf.refs.Add(-1); {
	case n == 0:
		sf.f.Close()
	case n < 0:
		panic("record: File released more often than acquired: " + sf.f.Name())
	}
}

// OS gives the file itself. Use only explicit offsets (ReadAt, sendfile with
// an offset): the file's own position is shared and means nothing.
func (sf *File) OS() *os.File { return sf.f }

// Memory is a buffer that is used again for something else once the last of
// those who still have bytes of it to send has released it. The owner holds
// one reference; a reader takes one more from somebody who has one.
type Memory struct {
	refs atomic.Int64
	free func()
}

// NewMemory gives a buffer's owner its reference; free is called, by whoever
// releases the last one, when the buffer may be used again.
func NewMemory(free func()) *Memory {
	m := &Memory{free: free}
	m.refs.Store(1)
	return m
}

// Acquire takes a reference. The caller has one, or knows that the owner has.
func (m *Memory) Acquire() { m.refs.Add(1) }

// Release gives a reference back.
func (m *Memory) Release() {
	switch n := m.refs.Add(-1); {
	case n == 0:
		m.free()
	case n < 0:
		panic("record: Memory released more often than acquired")
	}
}

// Unused says that nobody but the owner has a reference. It stays so while the
// owner gives none out.
func (m *Memory) Unused() bool { return m.refs.Load() == 1 }

// Span is a run of bytes of a reply: in memory (Bytes) or a range of a file
// (File, Off, Len), for which it holds one reference.
type Span struct {
	Bytes []byte
	Mem   *Memory // what Bytes is of, with one reference; nil: memory of nobody else's
	File  *File
	Off   int64
	Len   int64
}

// Part gives n bytes of the span from off on as a span with a reference of its
// own.
func (s Span) Part(off, n int64) Span {
	if s.File != nil {
		s.File.Acquire() // this span has one: it cannot fail
		return Span{File: s.File, Off: s.Off + off, Len: n}
	}
	if s.Mem != nil {
		s.Mem.Acquire()
	}
	return Span{Bytes: s.Bytes[off : off+n : off+n], Mem: s.Mem}
}

// Size is the number of bytes in the span.
func (s Span) Size() int64 {
	if s.File != nil {
		return s.Len
	}
	return int64(len(s.Bytes))
}

// Release gives up the span's reference to its file or memory, if it has one.
// Call it exactly once per span.
func (s Span) Release() {
	if s.File != nil {
		s.File.Release()
	}
	if s.Mem != nil {
		s.Mem.Release()
	}
}

// ReadAt copies the span's bytes from off on into p, like io.ReaderAt.
func (s Span) ReadAt(p []byte, off int64) (int, error) {
	if s.File != nil {
		if off >= s.Len {
			return 0, io.EOF
		}
		short := int64(len(p)) > s.Len-off
		if short {
			p = p[:s.Len-off]
		}
		n, err := s.File.ReadAt(p, s.Off+off)
		if err == nil && short {
			err = io.EOF
		}
		return n, err
	}
	if off >= int64(len(s.Bytes)) {
		return 0, io.EOF
	}
	n := copy(p, s.Bytes[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// SpansSize adds up the sizes of spans.
func SpansSize(spans []Span) int64 {
	var n int64
	for _, s := range spans {
		n += s.Size()
	}
	return n
}

// ReleaseSpans releases every span.
func ReleaseSpans(spans []Span) {
	for _, s := range spans {
		s.Release()
	}
}
