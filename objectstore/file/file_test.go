package file_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/firnlog/firn/objectstore"
	"github.com/firnlog/firn/objectstore/file"
	"github.com/firnlog/firn/objectstore/storetest"
)

func open(t testing.TB, dir string) *file.Store {
	t.Helper()
	s, err := file.Open(t.Context(), file.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t testing.TB) objectstore.Store { return open(t, t.TempDir()) })
}

func TestMain(m *testing.M) {
	if dir := os.Getenv("FIRN_TEST_RACER"); dir != "" {
		racer(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

// racer is one of several processes on one directory: it swaps a counter up,
// puts objects that others put too, and deletes.
func racer(dir string) {
	fatal := func(err error) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	ctx := context.Background()
	s, err := file.Open(ctx, file.Config{Dir: dir})
	if err != nil {
		fatal(err)
	}
	won := 0
	for i := range racerRounds {
		data := strconv.Itoa(os.Getpid())
		switch _, err := s.Put(ctx, fmt.Sprintf("put/%d/x", i), strings.NewReader(data), int64(len(data))); {
		case err == nil:
			won++
		case !errors.Is(err, objectstore.ErrExists):
			fatal(err)
		}
		// Folders that come and go under the others' hands.
		if _, err := s.Put(ctx, fmt.Sprintf("gone/%d/%s", i%2, data), strings.NewReader(data), int64(len(data))); err != nil {
			fatal(err)
		}
		if err := s.Delete(ctx, fmt.Sprintf("gone/%d/%s", i%2, data)); err != nil {
			fatal(err)
		}
		for {
			obj, err := s.Head(ctx, "counter")
			if err != nil && !errors.Is(err, objectstore.ErrNotFound) {
				fatal(err)
			}
			_, err = s.Swap(ctx, "counter", append(make([]byte, obj.Size), 'x'), obj.ETag)
			if err == nil {
				break
			}
			if !errors.Is(err, objectstore.ErrExists) {
				fatal(err)
			}
		}
	}
	fmt.Println(won)
}

const racers, racerRounds = 4, 25

func TestManyProcesses(t *testing.T) {
	dir := t.TempDir()
	g, ctx := errgroup.WithContext(t.Context())
	var won atomic.Int64
	for range racers {
		g.Go(func() error {
			cmd := exec.CommandContext(ctx, os.Args[0])
			cmd.Env = append(os.Environ(), "FIRN_TEST_RACER="+dir)
			cmd.Stderr = os.Stderr
			out, err := cmd.Output()
			if err != nil {
				return err
			}
			n, err := strconv.Atoi(strings.TrimSpace(string(out)))
			won.Add(int64(n))
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if won.Load() != racerRounds {
		t.Errorf("%d puts won, there were %d keys", won.Load(), racerRounds)
	}
	s := open(t, dir)
	if obj, err := s.Head(t.Context(), "counter"); err != nil || obj.Size != racers*racerRounds {
		t.Errorf("counter: %+v, %v; want %d", obj, err, racers*racerRounds)
	}
	n := 0
	for obj, err := range s.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		if n++; strings.HasPrefix(obj.Key, "gone/") {
			t.Errorf("%s was deleted", obj.Key)
		}
	}
	if n != racerRounds+1 {
		t.Errorf("%d objects, want %d", n, racerRounds+1)
	}
	if left := tmpFiles(t, dir); len(left) > 0 {
		t.Errorf("temporary files were left: %q", left)
	}
	if _, err := os.Stat(filepath.Join(dir, "gone")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("emptied folder: %v, want it gone", err)
	}
}

func tmpFiles(t *testing.T, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, ".firn", "tmp", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// blockingReader waits in the middle of a Put.
type blockingReader struct {
	*bytes.Reader
	reached, release chan struct{}
	once             sync.Once
}

func (r *blockingReader) Read(p []byte) (int, error) {
	r.once.Do(func() {
		close(r.reached)
		<-r.release
	})
	return r.Reader.Read(p)
}

// Open removes what a dead writer left, and nothing that a living one holds.
func TestLeftovers(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	r := &blockingReader{Reader: bytes.NewReader([]byte("alive")), reached: make(chan struct{}), release: make(chan struct{})}
	done := make(chan error, 1)
	go func() {
		_, err := s.Put(context.Background(), "alive", r, 5)
		done <- err
	}()
	<-r.reached
	dead := filepath.Join(dir, ".firn", "tmp", "dead")
	if err := os.WriteFile(dead, []byte("half of"), 0o644); err != nil {
		t.Fatal(err)
	}
	if n := len(tmpFiles(t, dir)); n != 2 {
		t.Fatalf("%d temporary files, want the living one's and the dead one's", n)
	}
	open(t, dir)
	if left := tmpFiles(t, dir); len(left) != 1 || left[0] == dead {
		t.Errorf("after open: %q", left)
	}
	close(r.release)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if rc, err := s.GetRange(t.Context(), "alive", 0, -1); err != nil {
		t.Error(err)
	} else {
		_ = rc.Close()
	}
	if left := tmpFiles(t, dir); len(left) > 0 {
		t.Errorf("after put: %q", left)
	}
}

// What is not an object is not seen, and what is outside is not reached.
func TestForeignFiles(t *testing.T) {
	dir := t.TempDir()
	s := open(t, filepath.Join(dir, "store"))
	for _, err := range []error{
		os.WriteFile(filepath.Join(dir, "outside"), []byte("secret"), 0o644),
		os.Symlink("../outside", filepath.Join(dir, "store", "link")),
		unix.Mkfifo(filepath.Join(dir, "store", "pipe"), 0o644),
		os.Mkdir(filepath.Join(dir, "store", "folder"), 0o755),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []string{"link", "pipe", "folder"} {
		if _, err := s.Head(t.Context(), key); !errors.Is(err, objectstore.ErrNotFound) {
			t.Errorf("head %s: %v", key, err)
		}
		if _, err := s.GetRange(t.Context(), key, 0, -1); !errors.Is(err, objectstore.ErrNotFound) {
			t.Errorf("get %s: %v", key, err)
		}
		if err := s.Delete(t.Context(), key); err != nil {
			t.Errorf("delete %s: %v", key, err)
		}
		if _, err := os.Lstat(filepath.Join(dir, "store", key)); err != nil {
			t.Errorf("delete removed what is no object: %v", err)
		}
		if _, err := s.Put(t.Context(), key, strings.NewReader("x"), 1); !errors.Is(err, objectstore.ErrExists) {
			t.Errorf("put %s: %v", key, err)
		}
	}
	for obj, err := range s.List(t.Context(), "", "") {
		t.Errorf("listed %+v, %v", obj, err)
	}
	// A folder where an object's parent should be, and the other way round.
	if _, err := s.Put(t.Context(), "obj", strings.NewReader("x"), 1); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(t.Context(), "obj/below", strings.NewReader("x"), 1); !errors.Is(err, objectstore.ErrKey) {
		t.Errorf("put below an object: %v", err)
	}
}

func TestDirectoryGone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	s := open(t, dir)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(t.Context(), "k", strings.NewReader("x"), 1); !errors.Is(err, objectstore.ErrNoBucket) {
		t.Errorf("put: %v", err)
	}
	if _, err := s.Swap(t.Context(), "k", nil, ""); !errors.Is(err, objectstore.ErrNoBucket) {
		t.Errorf("swap: %v", err)
	}
	var err error
	for _, err = range s.List(t.Context(), "", "") {
	}
	if !errors.Is(err, objectstore.ErrNoBucket) {
		t.Errorf("list: %v", err)
	}
	if _, err := s.Head(t.Context(), "k"); !errors.Is(err, objectstore.ErrNoBucket) {
		t.Errorf("head: %v", err)
	}
}

func TestURL(t *testing.T) {
	t.Chdir(t.TempDir())
	u, err := objectstore.ParseURL("file:objects")
	if err != nil {
		t.Fatal(err)
	}
	s, err := file.Open(t.Context(), file.FromURL(u))
	if err != nil {
		t.Fatal(err)
	}
	wd, _ := os.Getwd()
	if want := "file://" + wd + "/objects"; s.String() != want {
		t.Errorf("store is %s, want %s", s, want)
	}
	if _, err := file.Open(t.Context(), file.Config{}); err == nil {
		t.Error("opened no directory")
	}
	if err := os.WriteFile("plain", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := file.Open(t.Context(), file.Config{Dir: "plain"}); err == nil {
		t.Error("opened a file")
	}
}
