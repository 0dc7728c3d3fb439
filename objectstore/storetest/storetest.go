// Package storetest is the conformance suite that every object store passes:
// what objectstore.Store promises, tried on the real thing. Nothing is skipped
// where stores differ; what cannot be promised is not in the interface.
//
// Run is for every store. RunNetwork puts a bad network before one that is
// reached by TCP. Servers to run against are in storetest/servers.
package storetest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/firnlog/firn/objectstore"
)

// Run runs the suite. open gives a store that is empty and that nobody else
// writes to (a fresh prefix will do); it is called once per test, and the
// suite closes what it gives.
func Run(t *testing.T, open func(t testing.TB) objectstore.Store) {
	t.Helper()
	for _, tc := range []struct {
		name string
		run  func(t *testing.T, s objectstore.Store)
	}{
		{"PutGetHead", putGetHead},
		{"EmptyObject", emptyObject},
		{"ConditionalPut", conditionalPut},
		{"RacingPuts", racingPuts},
		{"Ranges", ranges},
		{"Multipart", multipartPut},
		{"RacingMultipart", racingMultipart},
		{"SourcePosition", sourcePosition},
		{"ShortSource", shortSource},
		{"BrokenSource", brokenSource},
		{"NotFound", notFound},
		{"Swap", swap},
		{"RacingSwaps", racingSwaps},
		{"SwapAgainstPut", swapAgainstPut},
		{"Delete", deletes},
		{"ListOrder", listOrder},
		{"ListPages", listPages},
		{"Keys", keys},
		{"CancelledBefore", cancelledBefore},
		{"CancelledPut", cancelledPut},
		{"CancelledGet", cancelledGet},
		{"ManyReaders", manyReaders},
		{"ReadWhileDeleted", readAfterDelete},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := open(t)
			defer func() {
				if err := s.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			}()
			tc.run(t, s)
		})
	}
}

// patience ends a test that hangs; nothing is timed by it.
const patience = 2 * time.Minute

func patient(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// Data gives n bytes that are the same for the same seed and for no other.
func Data(seed uint64, n int) []byte {
	out := make([]byte, n, n+8)
	r := rand.NewPCG(seed, 1)
	for i := 0; i < n; i += 8 {
		binary.LittleEndian.PutUint64(out[i:i+8:n+8], r.Uint64())
	}
	return out
}

func put(t testing.TB, s objectstore.Store, key string, data []byte) objectstore.Object {
	t.Helper()
	obj, err := s.Put(patient(t), key, bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
	if obj.Key != key || obj.Size != int64(len(data)) || obj.ETag == "" || !obj.Modified.IsZero() {
		t.Fatalf("put %s gave %+v", key, obj)
	}
	return obj
}

func read(t testing.TB, s objectstore.Store, key string, off, n int64) ([]byte, error) {
	t.Helper()
	rc, err := s.GetRange(patient(t), key, off, n)
	if err != nil {
		if rc != nil {
			t.Errorf("get %s: a body beside the error %v", key, err)
		}
		return nil, err
	}
	defer func() { _ = rc.Close() }()
	return io.ReadAll(rc)
}

func wantContent(t testing.TB, s objectstore.Store, key string, want []byte) {
	t.Helper()
	got, err := read(t, s, key, 0, -1)
	if err != nil {
		t.Fatalf("get %s: %v", key, err)
	}
	wantBytes(t, key, got, want)
}

func wantBytes(t testing.TB, what string, got, want []byte) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d bytes, want %d", what, len(got), len(want))
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("%s: byte %d of %d is %#x, want %#x", what, i, len(got), got[i], want[i])
		}
	}
}

func wantErr(t testing.TB, what string, err error, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: error is %v, want %v", what, err, want)
	}
}

func wantAbsent(t testing.TB, s objectstore.Store, key string) {
	t.Helper()
	if obj, err := s.Head(patient(t), key); !errors.Is(err, objectstore.ErrNotFound) {
		t.Errorf("head %s: %+v, %v; want it not to be there", key, obj, err)
	}
}

func list(t testing.TB, s objectstore.Store, prefix, after string) []objectstore.Object {
	t.Helper()
	var out []objectstore.Object
	for obj, err := range s.List(patient(t), prefix, after) {
		if err != nil {
			t.Fatalf("list %q after %q: %v", prefix, after, err)
		}
		out = append(out, obj)
	}
	return out
}

func putGetHead(t *testing.T, s objectstore.Store) {
	before := time.Now().Add(-time.Hour)
	data := Data(1, 100_000)
	made := put(t, s, "3f2a/cluster/0190-object", data)
	wantContent(t, s, made.Key, data)
	obj, err := s.Head(patient(t), made.Key)
	if err != nil {
		t.Fatal(err)
	}
	if obj.Key != made.Key || obj.Size != made.Size || obj.ETag != made.ETag {
		t.Errorf("head gave %+v, put %+v", obj, made)
	}
	if obj.Modified.Before(before) || obj.Modified.After(time.Now().Add(time.Hour)) {
		t.Errorf("modified %v, now %v", obj.Modified, time.Now())
	}
	if obj.CRC32C != "" && obj.CRC32C != objectstore.SumBytes(data) {
		t.Errorf("crc32c %q, want %q", obj.CRC32C, objectstore.SumBytes(data))
	}
	rc, err := s.GetRange(patient(t), made.Key, 10, 20)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rc.Close() }()
	b, ok := rc.(objectstore.Body)
	if !ok {
		t.Fatalf("body %T is no objectstore.Body", rc)
	}
	if b.Len() != 20 || b.ETag() != made.ETag {
		t.Errorf("body of %d bytes of %q, want 20 of %q", b.Len(), b.ETag(), made.ETag)
	}
}

func emptyObject(t *testing.T, s objectstore.Store) {
	put(t, s, "empty", nil)
	wantContent(t, s, "empty", nil)
	if obj, err := s.Head(patient(t), "empty"); err != nil || obj.Size != 0 {
		t.Errorf("head: %+v, %v", obj, err)
	}
	if got, err := read(t, s, "empty", 0, 0); err != nil || len(got) != 0 {
		t.Errorf("get 0+0: %q, %v", got, err)
	}
	_, err := read(t, s, "empty", 0, 1)
	wantErr(t, "get 0+1", err, objectstore.ErrRange)
	if got := list(t, s, "", ""); len(got) != 1 || got[0].Key != "empty" || got[0].Size != 0 {
		t.Errorf("list: %+v", got)
	}
}

func conditionalPut(t *testing.T, s objectstore.Store) {
	first := Data(1, 5000)
	put(t, s, "a/b", first)
	for _, other := range [][]byte{Data(2, 5000), first, nil} {
		_, err := s.Put(patient(t), "a/b", bytes.NewReader(other), int64(len(other)))
		wantErr(t, "second put", err, objectstore.ErrExists)
		wantContent(t, s, "a/b", first)
	}
}

// race runs n at once and gives how many succeeded, and which was the last.
func race(t *testing.T, n int, run func(i int) error) (winners []int) {
	t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-start
			err := run(i)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				winners = append(winners, i)
			case !errors.Is(err, objectstore.ErrExists) && objectstore.Retryable(err):
				t.Logf("racer %d: %v", i, err) // a conflict that the store asks to try again
			case !errors.Is(err, objectstore.ErrExists):
				t.Errorf("racer %d: %v", i, err)
			}
		})
	}
	close(start)
	wg.Wait()
	return winners
}

func racingPuts(t *testing.T, s objectstore.Store) {
	for round := range 5 {
		key := "race/" + strconv.Itoa(round)
		winners := race(t, 6, func(i int) error {
			data := Data(uint64(i), 20_000)
			_, err := s.Put(patient(t), key, bytes.NewReader(data), int64(len(data)))
			return err
		})
		if len(winners) != 1 {
			t.Fatalf("%d racers won: %v", len(winners), winners)
		}
		wantContent(t, s, key, Data(uint64(winners[0]), 20_000))
	}
}

func ranges(t *testing.T, s objectstore.Store) {
	const size = 70_001
	data := Data(3, size)
	put(t, s, "obj", data)
	for _, tc := range []struct {
		off, n int64
		want   error
	}{
		{0, 1, nil}, {0, 100, nil}, {0, size, nil}, {0, -1, nil}, {1, -1, nil}, {35_000, 10_000, nil},
		{size - 1, 1, nil}, {size - 1, -1, nil}, {size - 100, 100, nil}, {1, size - 1, nil},
		{0, 0, nil}, {50, 0, nil}, {size, 0, nil}, {size, -1, nil},
		{size - 1, 2, objectstore.ErrRange}, {0, size + 1, objectstore.ErrRange}, {size, 1, objectstore.ErrRange},
		{size + 1, -1, objectstore.ErrRange}, {size + 1, 0, objectstore.ErrRange}, {size + 1, 1, objectstore.ErrRange},
		{1 << 40, 10, objectstore.ErrRange}, {-1, 10, objectstore.ErrRange}, {-1, -1, objectstore.ErrRange},
		{1<<63 - 1, 1<<63 - 1, objectstore.ErrRange}, {1, 1<<63 - 1, objectstore.ErrRange},
	} {
		what := fmt.Sprintf("get %d+%d of %d", tc.off, tc.n, size)
		got, err := read(t, s, "obj", tc.off, tc.n)
		if tc.want != nil {
			wantErr(t, what, err, tc.want)
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		end := tc.off + tc.n
		if tc.n < 0 {
			end = size
		}
		wantBytes(t, what, got, data[tc.off:end])
	}
	rng := rand.New(rand.NewPCG(4, 4))
	for range 20 {
		off := rng.Int64N(size)
		n := rng.Int64N(size - off + 1)
		got, err := read(t, s, "obj", off, n)
		if err != nil {
			t.Fatalf("get %d+%d: %v", off, n, err)
		}
		wantBytes(t, fmt.Sprintf("get %d+%d", off, n), got, data[off:off+n])
	}
}

// plainSeeker hides everything of a reader but reading and seeking.
type plainSeeker struct{ io.ReadSeeker }

func multipartPut(t *testing.T, s objectstore.Store) {
	const size = 41<<20 + 12345
	data := Data(5, size)
	made := put(t, s, "large/readerat", data)
	wantContent(t, s, made.Key, data)
	obj, err := s.Head(patient(t), made.Key)
	if err != nil || obj.Size != size || obj.ETag != made.ETag {
		t.Errorf("head: %+v, %v; put gave %+v", obj, err, made)
	}
	if obj.CRC32C != "" && obj.CRC32C != objectstore.SumBytes(data) {
		t.Errorf("crc32c %q, want %q", obj.CRC32C, objectstore.SumBytes(data))
	}
	for _, off := range []int64{0, 16<<20 - 5, 32<<20 - 5, size - 10} { // across the parts' borders
		got, err := read(t, s, made.Key, off, 10)
		if err != nil {
			t.Fatalf("get %d+10: %v", off, err)
		}
		wantBytes(t, "border", got, data[off:off+10])
	}
	// The key is taken, and stays as it is.
	_, err = s.Put(patient(t), made.Key, bytes.NewReader(Data(6, size)), size)
	wantErr(t, "second put", err, objectstore.ErrExists)
	got, err := read(t, s, made.Key, 16<<20, 1000)
	if err != nil {
		t.Fatal(err)
	}
	wantBytes(t, "after the second put", got, data[16<<20:16<<20+1000])
	// A source that can only be sought.
	if _, err := s.Put(patient(t), "large/seeker", plainSeeker{bytes.NewReader(data)}, size); err != nil {
		t.Fatal(err)
	}
	wantContent(t, s, "large/seeker", data)
	if objs := list(t, s, "large/", ""); len(objs) != 2 || objs[0].Size != size || objs[1].Size != size {
		t.Errorf("list: %+v", objs)
	}
}

func racingMultipart(t *testing.T, s objectstore.Store) {
	const size = 17 << 20
	winners := race(t, 3, func(i int) error {
		_, err := s.Put(patient(t), "race", bytes.NewReader(Data(uint64(i), size)), size)
		return err
	})
	if len(winners) != 1 {
		t.Fatalf("%d racers won: %v", len(winners), winners)
	}
	wantContent(t, s, "race", Data(uint64(winners[0]), size))
}

func sourcePosition(t *testing.T, s objectstore.Store) {
	data := Data(7, 10_000)
	for name, r := range map[string]io.ReadSeeker{"readerat": bytes.NewReader(data), "seeker": plainSeeker{bytes.NewReader(data)}} {
		if _, err := r.Seek(1000, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		// Neither from the start nor to the end.
		if _, err := s.Put(patient(t), name, r, 5000); err != nil {
			t.Fatal(err)
		}
		wantContent(t, s, name, data[1000:6000])
	}
}

func shortSource(t *testing.T, s objectstore.Store) {
	for name, size := range map[string]int64{"small": 1001, "large": 20 << 20} {
		_, err := s.Put(patient(t), name, bytes.NewReader(Data(8, int(size)-1)), size)
		wantErr(t, "put of a short source", err, io.ErrUnexpectedEOF)
		wantErr(t, "put of a short source", err, objectstore.ErrSource)
		wantAbsent(t, s, name)
	}
}

var errSource = errors.New("the disk gave up")

// brokenReader fails at a position.
type brokenReader struct {
	io.ReadSeeker
	pos, at int64
}

func (r *brokenReader) Seek(off int64, whence int) (int64, error) {
	var err error
	r.pos, err = r.ReadSeeker.Seek(off, whence)
	return r.pos, err
}

func (r *brokenReader) Read(p []byte) (int, error) {
	if r.pos >= r.at {
		return 0, errSource
	}
	n, err := r.ReadSeeker.Read(p[:min(int64(len(p)), r.at-r.pos)])
	r.pos += int64(n)
	return n, err
}

func brokenSource(t *testing.T, s objectstore.Store) {
	for name, size := range map[string]int{"small": 5000, "large": 18 << 20} {
		r := &brokenReader{ReadSeeker: bytes.NewReader(Data(9, size)), at: int64(size) - 100}
		_, err := s.Put(patient(t), name, r, int64(size))
		wantErr(t, "put of a broken source", err, errSource)
		wantErr(t, "put of a broken source", err, objectstore.ErrSource)
		wantAbsent(t, s, name)
	}
}

func notFound(t *testing.T, s objectstore.Store) {
	put(t, s, "there/is", []byte("x"))
	for _, key := range []string{"nothing", "there", "there/is-not", "there/is/none"} {
		_, err := s.Head(patient(t), key)
		wantErr(t, "head "+key, err, objectstore.ErrNotFound)
		for _, n := range []int64{-1, 0, 1} {
			_, err = read(t, s, key, 0, n)
			wantErr(t, fmt.Sprintf("get %s 0+%d", key, n), err, objectstore.ErrNotFound)
		}
	}
	if got := list(t, s, "nothing", ""); len(got) != 0 {
		t.Errorf("list: %+v", got)
	}
}

func swap(t *testing.T, s objectstore.Store) {
	ctx := patient(t)
	one, err := s.Swap(ctx, "ptr/x", []byte("one"), "")
	if err != nil {
		t.Fatal(err)
	}
	if one.Key != "ptr/x" || one.Size != 3 || one.ETag == "" || !one.Modified.IsZero() {
		t.Errorf("swap gave %+v", one)
	}
	_, err = s.Swap(ctx, "ptr/x", []byte("again"), "")
	wantErr(t, "swap for none, with one there", err, objectstore.ErrExists)
	two, err := s.Swap(ctx, "ptr/x", []byte("two"), one.ETag)
	if err != nil {
		t.Fatal(err)
	}
	if two.ETag == one.ETag {
		t.Errorf("etag %q stayed the same", two.ETag)
	}
	_, err = s.Swap(ctx, "ptr/x", []byte("late"), one.ETag)
	wantErr(t, "swap with a stale etag", err, objectstore.ErrExists)
	wantContent(t, s, "ptr/x", []byte("two"))
	if obj, err := s.Head(ctx, "ptr/x"); err != nil || obj.ETag != two.ETag {
		t.Errorf("head: %+v, %v; swap gave %q", obj, err, two.ETag)
	}
	_, err = s.Swap(ctx, "ptr/none", []byte("x"), two.ETag)
	wantErr(t, "swap with an etag, with none there", err, objectstore.ErrExists)
	_, err = s.Swap(ctx, "ptr/none", []byte("x"), "no etag of any store")
	wantErr(t, "swap with a foreign etag", err, objectstore.ErrExists)
	wantAbsent(t, s, "ptr/none")
	if err := s.Delete(ctx, "ptr/x"); err != nil {
		t.Fatal(err)
	}
	_, err = s.Swap(ctx, "ptr/x", []byte("x"), two.ETag)
	wantErr(t, "swap of what was deleted", err, objectstore.ErrExists)
	big := Data(10, objectstore.MaxSwap)
	three, err := s.Swap(ctx, "ptr/x", big, "")
	if err != nil {
		t.Fatal(err)
	}
	wantContent(t, s, "ptr/x", big)
	if _, err = s.Swap(ctx, "ptr/x", nil, three.ETag); err != nil {
		t.Fatal(err)
	}
	wantContent(t, s, "ptr/x", nil)
	_, err = s.Swap(ctx, "ptr/big", make([]byte, objectstore.MaxSwap+1), "")
	wantErr(t, "swap of too much", err, objectstore.ErrKey)
}

// racingSwaps counts with compare-and-swap: no increment may be lost. The data
// says who wrote it, as WithRetry asks of those who swap.
func racingSwaps(t *testing.T, s objectstore.Store) {
	const racers, each = 4, 6
	ctx := patient(t)
	if _, err := s.Swap(ctx, "counter", []byte("0"), ""); err != nil {
		t.Fatal(err)
	}
	race(t, racers, func(racer int) error {
		for done := 0; done < each; {
			rc, err := s.GetRange(ctx, "counter", 0, -1)
			if err != nil {
				return err
			}
			old, err := io.ReadAll(rc)
			etag := rc.(objectstore.Body).ETag()
			_ = rc.Close()
			if err != nil {
				return err
			}
			count, _, _ := strings.Cut(string(old), " ")
			n, err := strconv.Atoi(count)
			if err != nil {
				return err
			}
			switch _, err := s.Swap(ctx, "counter", fmt.Appendf(nil, "%d by %d, its %d.", n+1, racer, done), etag); {
			case err == nil:
				done++
			case !errors.Is(err, objectstore.ErrExists) && !objectstore.Retryable(err):
				return err
			}
		}
		return nil
	})
	got, err := read(t, s, "counter", 0, -1)
	if count, _, _ := strings.Cut(string(got), " "); err != nil || count != strconv.Itoa(racers*each) {
		t.Errorf("counter is %q, %v; want %d", got, err, racers*each)
	}
}

func swapAgainstPut(t *testing.T, s objectstore.Store) {
	for round := range 5 {
		key := "key/" + strconv.Itoa(round)
		winners := race(t, 4, func(i int) error {
			data := []byte(strconv.Itoa(i))
			var err error
			if i%2 == 0 {
				_, err = s.Put(patient(t), key, bytes.NewReader(data), int64(len(data)))
			} else {
				_, err = s.Swap(patient(t), key, data, "")
			}
			return err
		})
		if len(winners) != 1 {
			t.Fatalf("%d racers won: %v", len(winners), winners)
		}
		wantContent(t, s, key, []byte(strconv.Itoa(winners[0])))
	}
}

func deletes(t *testing.T, s objectstore.Store) {
	ctx := patient(t)
	put(t, s, "d/one", []byte("1"))
	put(t, s, "d/two", []byte("2"))
	for range 2 {
		if err := s.Delete(ctx, "d/one"); err != nil {
			t.Fatal(err)
		}
	}
	wantAbsent(t, s, "d/one")
	for _, key := range []string{"never/was", "d", "d/two/below"} {
		if err := s.Delete(ctx, key); err != nil {
			t.Errorf("delete %s: %v", key, err)
		}
	}
	wantContent(t, s, "d/two", []byte("2"))
	put(t, s, "d/one", []byte("again"))
	wantContent(t, s, "d/one", []byte("again"))
}

func manyReaders(t *testing.T, s objectstore.Store) {
	data := Data(11, 3<<20)
	put(t, s, "shared", data)
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			off := int64(i) * 200_000
			got, err := read(t, s, "shared", off, 300_000)
			if err != nil {
				t.Errorf("reader %d: %v", i, err)
			} else if !bytes.Equal(got, data[off:off+300_000]) {
				t.Errorf("reader %d got other bytes", i)
			}
		})
	}
	wg.Wait()
}

// readAfterDelete: a body that is open when its object goes gives the object's
// bytes or an error, never others.
func readAfterDelete(t *testing.T, s objectstore.Store) {
	// Small enough that a server can send all of it before anybody reads: one
	// that locks what it sends (MinIO) would keep the delete waiting.
	const size = 128 << 10
	data := Data(12, size)
	put(t, s, "going", data)
	rc, err := s.GetRange(patient(t), "going", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rc.Close() }()
	head := make([]byte, 1000)
	if _, err := io.ReadFull(rc, head); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(patient(t), "going"); err != nil {
		t.Fatal(err)
	}
	put(t, s, "going", Data(13, size))
	rest, err := io.ReadAll(rc)
	got := append(head, rest...)
	if err == nil && len(got) != len(data) {
		t.Errorf("%d bytes without an error, want %d", len(got), len(data))
	}
	wantBytes(t, "what was read", got, data[:len(got)])
}
