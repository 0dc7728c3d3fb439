package multipart_test

import (
	"bytes"
	"context"
	"errors"
	"hash/crc32"
	"io"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/firnlog/firn/objectstore"
	"github.com/firnlog/firn/objectstore/multipart"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type plain struct{ io.ReadSeeker }

func source(t interface{ Fatal(...any) }, r io.ReadSeeker, size, partSize int64) *multipart.Source {
	s, err := multipart.NewSource(context.Background(), r, size, partSize)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// What is sent, put together, is what the source holds, with its checksums,
// whatever the sizes and however it is read.
func TestSend(t *testing.T) {
	table := crc32.MakeTable(crc32.Castagnoli)
	rapid.Check(t, func(t *rapid.T) {
		data := rapid.SliceOfN(rapid.Byte(), 0, 2000).Draw(t, "data")
		skip := rapid.IntRange(0, len(data)).Draw(t, "skip")
		size := rapid.IntRange(0, len(data)-skip).Draw(t, "size")
		partSize := rapid.Int64Range(1, 700).Draw(t, "part")
		var r io.ReadSeeker = bytes.NewReader(data)
		if rapid.Bool().Draw(t, "plain") {
			r = plain{r}
		}
		if _, err := r.Seek(int64(skip), io.SeekStart); err != nil {
			t.Fatal(err)
		}
		src := source(t, r, int64(size), partSize)
		want := data[skip : skip+size]
		if got := src.Sum(); got != multipart.CRC(crc32.Checksum(want, table)) {
			t.Fatalf("sum %08x", got)
		}
		if n := (int64(size) + partSize - 1) / partSize; int64(src.Parts()) != n {
			t.Fatalf("%d parts, want %d", src.Parts(), n)
		}
		got := make([]byte, size)
		failures := rapid.IntRange(0, multipart.Attempts-1).Draw(t, "failures")
		var left atomic.Int64
		if failures > 1 {
			failures = 1 // each waits
		}
		left.Store(int64(failures))
		err := multipart.Send(context.Background(), src, multipart.NewLimiter(3), func(_ context.Context, p multipart.Part) error {
			b, err := io.ReadAll(p.Body)
			if err != nil {
				return err
			}
			if left.Add(-1) >= 0 {
				return objectstore.ErrUnavailable
			}
			if int64(len(b)) != p.Size || multipart.CRC(crc32.Checksum(b, table)) != p.CRC {
				return errors.New("part of another size or checksum")
			}
			copy(got[int64(p.Number-1)*partSize:], b)
			return nil
		})
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("sent %x, %v; want %x", got, err, want)
		}
	})
}

// Parts of all Puts together stay within the limit, and the first final error
// ends the sending.
func TestLimitAndFailure(t *testing.T) {
	limit := multipart.NewLimiter(3)
	var now, most atomic.Int64
	refused := objectstore.ErrDenied
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			src := source(t, bytes.NewReader(make([]byte, 100)), 100, 1)
			var sent atomic.Int64
			err := multipart.Send(t.Context(), src, limit, func(_ context.Context, p multipart.Part) error {
				n := now.Add(1)
				defer now.Add(-1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				sent.Add(1)
				if p.Number == 10 {
					return refused
				}
				return nil
			})
			if !errors.Is(err, refused) {
				t.Errorf("send: %v", err)
			}
			if n := sent.Load(); n < 10 || n > 10+2*3 {
				t.Errorf("%d parts were sent, the tenth was refused", n)
			}
		})
	}
	wg.Wait()
	if most.Load() > 3 {
		t.Errorf("%d parts at once, the limit is 3", most.Load())
	}
	if len(limit) != 0 {
		t.Errorf("%d places are still taken", len(limit))
	}
}

func TestCancelled(t *testing.T) {
	data := bytes.NewReader(make([]byte, 10))
	src := source(t, data, 10, 1)
	limit := multipart.NewLimiter(2)
	ctx, cancel := context.WithCancel(t.Context())
	err := multipart.Send(ctx, src, limit, func(ctx context.Context, p multipart.Part) error {
		cancel()
		<-ctx.Done()
		return ctx.Err()
	})
	if !errors.Is(err, context.Canceled) || len(limit) != 0 {
		t.Errorf("%v, %d places taken", err, len(limit))
	}
	if _, err := multipart.NewSource(ctx, data, 10, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("sum: %v", err)
	}
	// Cleaning up works all the same.
	if err := multipart.Cleanup(ctx, func(ctx context.Context) error { return ctx.Err() }); err != nil {
		t.Errorf("cleanup: %v", err)
	}
}

func TestStop(t *testing.T) {
	for _, r := range []io.ReadSeeker{bytes.NewReader([]byte("abc")), plain{bytes.NewReader([]byte("abc"))}} {
		src := source(t, r, 3, 1)
		body := src.Section(0, 3)
		if _, err := body.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		src.Stop()
		if _, err := body.Read(make([]byte, 1)); !errors.Is(err, multipart.ErrStopped) {
			t.Errorf("read after stop: %v", err)
		}
	}
}

func TestPartSize(t *testing.T) {
	for size, want := range map[int64]int64{0: 16, 1: 16, 16 * 10_000: 16, 16*10_000 + 1: 32, 1 << 40: 1 << 27} {
		if got := multipart.PartSizeFor(size, 16); got != want {
			t.Errorf("%d bytes: parts of %d, want %d", size, got, want)
		}
	}
}
