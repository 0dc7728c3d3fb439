package history

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// Recorder writes a history. It may be used by many goroutines: an event that
// was recorded before another one began to be has the lower line, so the order
// of the lines is one in which things can have happened.
type Recorder struct {
	origin int64
	file   *os.File

	mu  sync.Mutex // orders the lines, their times and the buffer
	w   *bufio.Writer
	buf []byte
	n   int64
	err error
}

// Create makes the file. Times are counted from origin, a value of Now:
// recorders of several programs on one machine that share it can be merged.
func Create(path string, origin int64) (*Recorder, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	return &Recorder{origin: origin, file: f, w: bufio.NewWriterSize(f, 1<<18)}, nil
}

// Record adds an event, whose time is set to now.
func (r *Recorder) Record(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.Time = Now() - r.origin
	r.buf = AppendLine(r.buf[:0], &e)
	if _, err := r.w.Write(r.buf); err != nil && r.err == nil {
		r.err = err
	}
	r.n++
}

// Flush writes what is buffered.
func (r *Recorder) Flush() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.w.Flush(); err != nil && r.err == nil {
		r.err = err
	}
	return r.err
}

// Events is how many events were recorded.
func (r *Recorder) Events() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.n
}

// Close ends the file. Its error is the first that any write had.
func (r *Recorder) Close() error {
	err := r.Flush()
	if cerr := r.file.Close(); err == nil {
		err = cerr
	}
	return err
}

// Merge writes the events of several files, each in order of time, in order of
// time to one. Of events of the same time those of an earlier file come first.
func Merge(to string, from ...string) error {
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer out.Close()
	type source struct {
		r *Reader
		e Event
	}
	var sources []*source
	next := func(s *source) (bool, error) {
		err := s.r.Next(&s.e)
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		return err == nil, err
	}
	for _, path := range from {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		s := &source{r: NewReader(f)}
		more, err := next(s)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if more {
			sources = append(sources, s)
		}
	}
	w := bufio.NewWriterSize(out, 1<<18)
	var line []byte
	for len(sources) > 0 {
		first := 0
		for i, s := range sources {
			if s.e.Time < sources[first].e.Time {
				first = i
			}
		}
		line = AppendLine(line[:0], &sources[first].e)
		if _, err := w.Write(line); err != nil {
			return err
		}
		more, err := next(sources[first])
		if err != nil {
			return err
		}
		if !more {
			sources = append(sources[:first], sources[first+1:]...)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return out.Close()
}
