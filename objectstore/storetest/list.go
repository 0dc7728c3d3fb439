package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/firnlog/firn/objectstore"
)

func keysOf(objs []objectstore.Object) []string {
	var out []string
	for _, o := range objs {
		out = append(out, o.Key)
	}
	return out
}

// expect gives what a listing must yield.
func expect(keys []string, prefix, after string) []string {
	var out []string
	for _, k := range keys {
		if strings.HasPrefix(k, prefix) && k > after {
			out = append(out, k)
		}
	}
	sort.Strings(out)
	return out
}

func listOrder(t *testing.T, s objectstore.Store) {
	keys := []string{
		"a/b", "a-b", "a.b", "a0", "a/b-c/d", "a/b.c", "aa/b", "B/x", "b/1/2/3", "b/1/2-3", "b/10", "b/2", "z", "_", "a/c/d", "a/cd",
	}
	for _, k := range keys {
		put(t, s, k, []byte(k))
	}
	prefixes := []string{"", "a", "a/", "a/b", "a/b-c/", "b/1", "b/1/", "zz", "B", "a/c", "a/c/d", "a/c/d/"}
	afters := []string{"", "a", "a-", "a-b", "a/", "a/b", "a/b-c", "a/b-c/d", "a/b.c", "a/zzz", "a0", "b", "b/1/2/3", "z", "zz", "0"}
	for _, prefix := range prefixes {
		for _, after := range afters {
			got := list(t, s, prefix, after)
			if want := expect(keys, prefix, after); !slices.Equal(keysOf(got), want) {
				t.Errorf("list %q after %q:\n got %q\nwant %q", prefix, after, keysOf(got), want)
			}
			for _, o := range got {
				if o.Size != int64(len(o.Key)) || o.Modified.IsZero() || o.ETag != "" {
					t.Errorf("listed %+v", o)
				}
			}
		}
	}
}

func listPages(t *testing.T, s objectstore.Store) {
	const n = 2100 // more than two pages of a thousand
	keys := make([]string, n)
	g, ctx := errgroup.WithContext(patient(t))
	g.SetLimit(8)
	for i := range keys {
		keys[i] = fmt.Sprintf("p/%02x/%05d", i%7, i)
		g.Go(func() error {
			_, err := s.Put(ctx, keys[i], bytes.NewReader(nil), 0)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	sort.Strings(keys)
	for _, tc := range []struct{ prefix, after string }{
		{"", ""}, {"p/", ""}, {"p/03/", ""}, {"p/", keys[0]}, {"p/", keys[999]}, {"p/", keys[1500]}, {"p/", keys[n-1]}, {"q", ""}, {"", "p/03/"},
	} {
		if got, want := keysOf(list(t, s, tc.prefix, tc.after)), expect(keys, tc.prefix, tc.after); !slices.Equal(got, want) {
			t.Errorf("list %q after %q: %d keys, want %d", tc.prefix, tc.after, len(got), len(want))
		}
	}
	// Stopping early, before and after a page's border, and going on from there.
	for _, stop := range []int{1, 999, 1000, 1001} {
		var got []string
		for obj, err := range s.List(patient(t), "p/", "") {
			if err != nil {
				t.Fatal(err)
			}
			if got = append(got, obj.Key); len(got) == stop {
				break
			}
		}
		got = append(got, keysOf(list(t, s, "p/", got[len(got)-1]))...)
		if !slices.Equal(got, keys) {
			t.Errorf("stopped at %d and gone on: %d keys, want %d", stop, len(got), n)
		}
	}
	// A context that ends between pages ends the listing.
	cctx, cancel := context.WithCancel(patient(t))
	defer cancel()
	seen, failed := 0, error(nil)
	for _, err := range s.List(cctx, "p/", "") {
		if failed = err; err != nil {
			break
		}
		seen++
		cancel()
	}
	if seen == n || !errors.Is(failed, context.Canceled) {
		t.Errorf("cancelled after the first key: %d of %d keys, error %v", seen, n, failed)
	}
}

func keys(t *testing.T, s objectstore.Store) {
	ctx := patient(t)
	for _, key := range []string{
		"", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "./a", "a/.", ".hidden", "a/.b", "a b", "a\x00b", "a\nb", "ä", "a?b", "a%2fb", "a\\b", "a:b",
		strings.Repeat("x", 513), strings.Repeat("x", 256), strings.Repeat("x/", 256),
	} {
		what := fmt.Sprintf("key %.40q", key)
		_, err := s.Put(ctx, key, bytes.NewReader([]byte("x")), 1)
		wantErr(t, "put "+what, err, objectstore.ErrKey)
		_, err = s.Swap(ctx, key, []byte("x"), "")
		wantErr(t, "swap "+what, err, objectstore.ErrKey)
		_, err = s.GetRange(ctx, key, 0, 1)
		wantErr(t, "get "+what, err, objectstore.ErrKey)
		_, err = s.Head(ctx, key)
		wantErr(t, "head "+what, err, objectstore.ErrKey)
		wantErr(t, "delete "+what, s.Delete(ctx, key), objectstore.ErrKey)
	}
	long := strings.Repeat("y", 255) + "/" + strings.Repeat("Z", 255) + "/"
	for _, key := range []string{"x", "A-Z_0.9/a", long[:510] + "/1", strings.Repeat("n/", 20) + "deep", "a...b"} {
		put(t, s, key, []byte(key))
		wantContent(t, s, key, []byte(key))
	}
	if got := len(list(t, s, "", "")); got != 5 {
		t.Errorf("%d objects, want 5", got)
	}
}

func cancelledBefore(t *testing.T, s objectstore.Store) {
	put(t, s, "there", []byte("content"))
	dead, cancel := context.WithCancel(t.Context())
	cancel()
	late, cancelLate := context.WithTimeout(t.Context(), -1)
	defer cancelLate()
	for ctx, want := range map[context.Context]error{dead: context.Canceled, late: context.DeadlineExceeded} {
		for name, data := range map[string][]byte{"small": Data(1, 10), "empty": nil, "large": Data(1, 17<<20)} {
			_, err := s.Put(ctx, name, bytes.NewReader(data), int64(len(data)))
			wantErr(t, "put "+name, err, want)
		}
		_, err := s.Swap(ctx, "swapped", []byte("x"), "")
		wantErr(t, "swap", err, want)
		_, err = s.Head(ctx, "there")
		wantErr(t, "head", err, want)
		rc, err := s.GetRange(ctx, "there", 0, -1)
		if err == nil {
			_, err = io.ReadAll(rc)
			_ = rc.Close()
		}
		wantErr(t, "get", err, want)
		wantErr(t, "delete", s.Delete(ctx, "there"), want)
		err = nil
		for _, lerr := range s.List(ctx, "", "") {
			err = lerr
		}
		wantErr(t, "list", err, want)
	}
	if got := keysOf(list(t, s, "", "")); !slices.Equal(got, []string{"there"}) {
		t.Errorf("objects after cancelled calls: %q", got)
	}
}

// triggerReader calls fire when it has been read beyond a position for the
// second time (checksums come first), and notes reads after stop.
type triggerReader struct {
	*bytes.Reader
	at      int64
	fire    func()
	stopped atomic.Bool
	after   atomic.Int64
	passes  atomic.Int64
	wanted  int64
}

func (r *triggerReader) ReadAt(p []byte, off int64) (int, error) {
	r.note(off, int64(len(p)))
	return r.Reader.ReadAt(p, off)
}

func (r *triggerReader) Read(p []byte) (int, error) {
	pos, _ := r.Seek(0, io.SeekCurrent)
	r.note(pos, int64(len(p)))
	return r.Reader.Read(p)
}

func (r *triggerReader) note(off, n int64) {
	if r.stopped.Load() {
		r.after.Add(1)
	}
	if off <= r.at && r.at < off+n && r.passes.Add(1) == r.wanted {
		r.fire()
	}
}

func cancelledPut(t *testing.T, s objectstore.Store) {
	for _, size := range []int{8 << 20, 36 << 20} {
		for pass := int64(1); pass <= 2; pass++ { // while summing, and while sending
			ctx, cancel := context.WithCancel(patient(t))
			r := &triggerReader{Reader: bytes.NewReader(Data(1, size)), at: int64(size) / 2, fire: cancel, wanted: pass}
			key := fmt.Sprintf("cut/%d-%d", size, pass)
			_, err := s.Put(ctx, key, r, int64(size))
			r.stopped.Store(true)
			fired := ctx.Err() != nil
			cancel()
			if !fired {
				// A store that reads its source once has nothing to cancel in
				// a second pass: then the object must simply be whole.
				if pass == 1 || err != nil {
					t.Errorf("put %s was never cancelled: %v", key, err)
				}
				continue
			}
			wantErr(t, "put "+key, err, context.Canceled)
			wantAbsent(t, s, key)
			if n := r.after.Load(); n > 0 {
				t.Errorf("the source was read %d times after put had returned", n)
			}
			// The key is free for another try.
			put(t, s, key, []byte("second try"))
			wantContent(t, s, key, []byte("second try"))
		}
	}
}

func cancelledGet(t *testing.T, s objectstore.Store) {
	const size = 32 << 20
	put(t, s, "large", Data(2, size))
	ctx, cancel := context.WithCancel(patient(t))
	defer cancel()
	rc, err := s.GetRange(ctx, "large", 0, size)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rc.Close() }()
	if _, err := io.ReadFull(rc, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	cancel()
	n, err := io.Copy(io.Discard, rc)
	if err == nil {
		t.Errorf("read all of %d bytes after the context ended", n)
	}
	wantErr(t, "reading on", err, context.Canceled)
}
