// Package multipart holds what the adapters share of sending bytes: a source
// that several requests read at once and that nobody reads any more once the
// call has returned, its checksums, and sending it in parts with bounded
// concurrency. It knows no provider.
package multipart

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"
	"time"

	"github.com/firnlog/firn/objectstore"
)

// Defaults of the adapters.
const (
	PartSize    = 16 << 20 // bytes; also the largest object sent whole
	Concurrency = 4        // parts of one store under way at once, all its Puts together
	Attempts    = 4        // tries of one part before the whole Put fails
)

// minRate is the bytes/s that a part must make beyond its first 15 seconds.
const minRate = 1 << 20

// MaxParts is how many parts an S3 upload may have.
const MaxParts = 10000

// ErrStopped is what a Source gives after Stop.
var ErrStopped = errors.New("source is no longer read")

// Source is size bytes of a reader, from where it stood, readable at any
// offset, and their checksums. HTTP clients may go on reading a request's body after the call has
// failed; Stop ends that, so that the caller may use its reader, or the memory
// behind it, again.
type Source struct {
	// mu keeps Stop from returning while somebody reads: readers hold it
	// shared where r is an io.ReaderAt, alone where it must be sought.
	mu      sync.RWMutex
	r       io.ReadSeeker
	at      io.ReaderAt // nil: not one
	base    int64
	size    int64
	stopped bool

	sum      CRC
	partSize int64
	parts    []CRC
}

// NewSource takes size bytes from r's present position and reads them once:
// the checksums are known before anything is sent, so that what a store
// receives is compared with what the caller meant, not with what was read
// while sending. Parts have partSize bytes, or what PartSizeFor makes of it.
func NewSource(ctx context.Context, r io.ReadSeeker, size, partSize int64) (*Source, error) {
	base, err := r.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", objectstore.ErrSource, err)
	}
	at, _ := r.(io.ReaderAt)
	s := &Source{r: r, at: at, base: base, size: size, partSize: PartSizeFor(size, partSize)}
	if err := s.check(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// Stop returns when nobody reads the source, and nobody will.
func (s *Source) Stop() {
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
}

// Size gives the number of bytes.
func (s *Source) Size() int64 { return s.size }

// Sum gives the checksum of all of them.
func (s *Source) Sum() CRC { return s.sum }

// Parts gives the number of parts; no bytes are no part.
func (s *Source) Parts() int { return len(s.parts) }

// ReadAt reads as io.ReaderAt says.
func (s *Source) ReadAt(p []byte, off int64) (int, error) {
	if off >= s.size {
		return 0, io.EOF
	}
	whole := int64(len(p)) <= s.size-off
	if !whole {
		p = p[:s.size-off]
	}
	n, err := s.readAt(p, off)
	switch {
	case n == len(p) && whole:
		return n, nil
	case n == len(p):
		return n, io.EOF
	case err == nil || errors.Is(err, io.EOF):
		return n, fmt.Errorf("%w: %w at %d of %d bytes", objectstore.ErrSource, io.ErrUnexpectedEOF, off+int64(n), s.size)
	case errors.Is(err, ErrStopped):
		return n, err
	}
	return n, fmt.Errorf("%w: %w", objectstore.ErrSource, err)
}

func (s *Source) readAt(p []byte, off int64) (int, error) {
	if s.at != nil {
		s.mu.RLock()
		defer s.mu.RUnlock()
		if s.stopped {
			return 0, ErrStopped
		}
		return s.at.ReadAt(p, s.base+off)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return 0, ErrStopped
	}
	if _, err := s.r.Seek(s.base+off, io.SeekStart); err != nil {
		return 0, err
	}
	return io.ReadFull(s.r, p)
}

// Section gives n bytes from off as a request's body.
func (s *Source) Section(off, n int64) *io.SectionReader { return io.NewSectionReader(s, off, n) }

// CRC is a CRC-32C.
type CRC uint32

// Hex gives the form of objectstore.Object.CRC32C.
func (c CRC) Hex() string { return objectstore.FormatCRC32C(uint32(c)) }

// Base64 gives the form of S3's and GCS's headers: of the big-endian bytes.
func (c CRC) Base64() string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, uint32(c)))
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// check reads all bytes for their checksums.
func (s *Source) check(ctx context.Context) error {
	buf := make([]byte, min(256<<10, max(s.size, 1)))
	var all, part uint32
	for off := int64(0); off < s.size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		end := min(off-off%s.partSize+s.partSize, s.size)
		p := buf[:min(int64(len(buf)), end-off)]
		n, err := s.ReadAt(p, off)
		if n < len(p) {
			return err
		}
		all, part = crc32.Update(all, castagnoli, p), crc32.Update(part, castagnoli, p)
		if off += int64(n); off == end {
			s.parts, part = append(s.parts, CRC(part)), 0
		}
	}
	s.sum = CRC(all)
	return nil
}

// Part is one part on its way.
type Part struct {
	Number int // from 1
	Body   *io.SectionReader
	Size   int64
	CRC    CRC
}

// PartSizeFor gives the part size for an object of this size: want, or more
// where that would give more than MaxParts parts.
func PartSizeFor(size, want int64) int64 {
	for (size+want-1)/want > MaxParts {
		want *= 2
	}
	return want
}

// Limiter bounds the parts under way; one per store.
type Limiter chan struct{}

// NewLimiter allows n parts at once.
func NewLimiter(n int) Limiter { return make(Limiter, n) }

func (l Limiter) take(ctx context.Context) bool {
	if ctx.Err() != nil {
		return false
	}
	select {
	case l <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// Send sends the source's parts through send, each with retries of its own:
// one lost connection does not cost the other parts. It returns when no send
// is under way any more; the first error ends it.
func Send(ctx context.Context, src *Source, limit Limiter, send func(context.Context, Part) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	var first sync.Once
	var failed error
	fail := func(err error) {
		first.Do(func() { failed = err })
		cancel(err)
	}
	for i := range src.parts {
		if !limit.take(ctx) {
			fail(ctx.Err())
			break
		}
		wg.Go(func() {
			defer func() { <-limit }()
			if err := sendPart(ctx, src, i, send); err != nil {
				fail(err)
			}
		})
	}
	wg.Wait()
	return failed
}

func sendPart(ctx context.Context, src *Source, i int, send func(context.Context, Part) error) error {
	off := int64(i) * src.partSize
	size := min(src.partSize, src.size-off)
	timeout := 15*time.Second + time.Duration(size)*time.Second/minRate
	for n := 0; ; n++ {
		actx, cancel := context.WithTimeout(ctx, timeout)
		err := send(actx, Part{Number: i + 1, Body: src.Section(off, size), Size: size, CRC: src.parts[i]})
		cancel()
		if err == nil || n+1 >= Attempts || ctx.Err() != nil || !objectstore.Retryable(err) {
			return err
		}
		t := time.NewTimer(objectstore.Backoff(100*time.Millisecond, 2*time.Second, n))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return err
		}
	}
}

// Cleanup runs abort after a failed upload, whatever became of ctx: with a
// short deadline of its own. What it could not abort, the bucket's lifecycle
// rule for incomplete uploads collects.
func Cleanup(ctx context.Context, abort func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return abort(ctx)
}
