// Package file stores objects in a directory: the embedded default, and good
// for a mounted network file system that has rename, flock and fsync. Many
// processes may use one directory at once.
//
// An object is a file of the key's name. What is not an object lies in .firn
// (no key's part begins with a dot): tmp/ holds files that are being written,
// each locked by its writer, so that a writer's death leaves one that the next
// Open collects; swap.lock is held while a Swap compares and replaces, and
// while a Delete removes.
package file

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firnlog/firn/objectstore"
)

const (
	ownDir  = ".firn"
	tmpDir  = "tmp"
	lockTry = 2 * time.Millisecond // between two looks at a lock that another holds
)

// Config says which directory; it is made if it is not there.
type Config struct {
	Dir string
}

// FromURL takes over a parsed file: URL.
func FromURL(u objectstore.URL) Config { return Config{Dir: u.Dir} }

// Store is a directory.
type Store struct {
	dir string // absolute
}

var _ objectstore.Store = (*Store)(nil)

// Open makes the directory if need be and removes what dead writers left.
func Open(_ context.Context, cfg Config) (*Store, error) {
	if cfg.Dir == "" {
		return nil, errors.New("file: no directory given")
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("file: %w", err)
	}
	s := &Store{dir: dir}
	if err := os.MkdirAll(s.own(tmpDir), 0o755); err != nil {
		return nil, fmt.Errorf("file: %w", err)
	}
	for _, d := range []string{dir, filepath.Join(dir, ownDir)} {
		if err := syncDir(d); err != nil {
			return nil, fmt.Errorf("file: %w", err)
		}
	}
	if err := s.collect(); err != nil {
		return nil, fmt.Errorf("file: collecting leftovers: %w", err)
	}
	return s, nil
}

// String gives the store's URL.
func (s *Store) String() string { return objectstore.URL{Scheme: "file", Dir: s.dir}.String() }

// Close does nothing: nothing is held between calls.
func (s *Store) Close() error { return nil }

func (s *Store) own(name string) string     { return filepath.Join(s.dir, ownDir, name) }
func (s *Store) path(key string) string     { return filepath.Join(s.dir, filepath.FromSlash(key)) }
func (s *Store) tmpPath(name string) string { return filepath.Join(s.dir, ownDir, tmpDir, name) }

// collect removes files in tmp that no writer holds any more.
func (s *Store) collect() error {
	entries, err := os.ReadDir(s.own(tmpDir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		f, err := os.OpenFile(s.tmpPath(e.Name()), os.O_RDWR, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			err = os.Remove(f.Name())
		}
		_ = f.Close()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// create makes a locked file in tmp. The name may be collected between the
// creation and the lock: then it is made again.
func (s *Store) create() (*os.File, error) {
	for range 100 {
		var name [12]byte
		rand.Read(name[:])
		f, err := os.OpenFile(s.tmpPath(hex.EncodeToString(name[:])), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
		if err != nil {
			return nil, err
		}
		var st unix.Stat_t
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil &&
			unix.Fstat(int(f.Fd()), &st) == nil && st.Nlink > 0 {
			return f, nil
		}
		_ = f.Close()
	}
	return nil, errors.New("another process keeps removing the temporary files")
}

func fail(ctx context.Context, op, key string, err error) error {
	var kind error
	switch {
	case errors.Is(err, objectstore.ErrSource):
	case errors.Is(err, fs.ErrNotExist):
		kind = objectstore.ErrNotFound
	case errors.Is(err, fs.ErrExist):
		kind = objectstore.ErrExists
	case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.EROFS):
		kind = objectstore.ErrDenied
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.EISDIR), errors.Is(err, unix.ENAMETOOLONG):
		kind = objectstore.ErrKey
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT), errors.Is(err, unix.EIO):
		kind = objectstore.ErrUnavailable
	}
	return objectstore.Fail(ctx, op, key, kind, err)
}

// write puts size bytes of r into a synced temporary file.
func (s *Store) write(ctx context.Context, r io.Reader, size int64) (*os.File, error) {
	f, err := s.create()
	if err != nil {
		return nil, err
	}
	ok := false
	defer func() {
		if !ok {
			discard(f)
		}
	}()
	n, err := io.CopyBuffer(struct{ io.Writer }{f}, &ctxReader{ctx, sourceReader{io.LimitReader(r, size)}}, make([]byte, min(1<<20, max(size, 1))))
	if err != nil {
		return nil, err
	}
	if n < size {
		return nil, fmt.Errorf("%w: %w at %d of %d bytes", objectstore.ErrSource, io.ErrUnexpectedEOF, n, size)
	}
	if err := f.Sync(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	ok = true
	return f, nil
}

func discard(f *os.File) {
	_ = os.Remove(f.Name())
	_ = f.Close()
}

// ctxReader ends when ctx ends.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (r *ctxReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// sourceReader tells the caller's errors from the disk's.
type sourceReader struct{ r io.Reader }

func (r sourceReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("%w: %w", objectstore.ErrSource, err)
	}
	return n, err
}

// publish gives the file its key's name, durably.
func (s *Store) publish(f *os.File, key string, replace bool) error {
	to := s.path(key)
	for range 100 {
		if err := s.mkdirs(filepath.Dir(to)); err != nil {
			return err
		}
		var err error
		if replace {
			err = os.Rename(f.Name(), to)
		} else {
			err = renameNew(f.Name(), to)
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue // a Delete removed the emptied folder in between
		}
		if err != nil {
			return err
		}
		return syncDir(filepath.Dir(to))
	}
	return fmt.Errorf("folder of %s keeps vanishing", to)
}

// renameNew renames unless there is something of that name.
func renameNew(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	switch err {
	case nil:
		return nil
	case unix.EINVAL, unix.ENOSYS, unix.ENOTSUP:
		// A file system without the flag: a hard link is as atomic.
		if err := os.Link(from, to); err != nil {
			return err
		}
		return os.Remove(from)
	}
	return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
}

// mkdirs makes a folder below the store's, each step durable.
func (s *Store) mkdirs(dir string) error {
	if dir == s.dir {
		return nil
	}
	if st, err := os.Stat(dir); err == nil && st.IsDir() {
		return nil
	}
	parent := filepath.Dir(dir)
	for range 100 {
		if err := s.mkdirs(parent); err != nil {
			return err
		}
		err := os.Mkdir(dir, 0o755)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if errors.Is(err, fs.ErrExist) {
			if st, serr := os.Stat(dir); serr == nil && !st.IsDir() {
				return &fs.PathError{Op: "mkdir", Path: dir, Err: unix.ENOTDIR}
			}
			return nil
		}
		if err != nil {
			return err
		}
		return syncDir(parent)
	}
	return fmt.Errorf("folder %s keeps vanishing", parent)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) { // emptied and removed by a Delete since
			return nil
		}
		return err
	}
	defer func() { _ = d.Close() }()
	return d.Sync()
}

// Put writes a temporary file, syncs it, and gives it its name if that is free.
func (s *Store) Put(ctx context.Context, key string, r io.ReadSeeker, size int64) (objectstore.Object, error) {
	if err := objectstore.CheckKey(key); err != nil {
		return objectstore.Object{}, objectstore.Fail(ctx, "put", key, objectstore.ErrKey, err)
	}
	if _, err := os.Lstat(s.path(key)); err == nil { // spares writing what has no place
		return objectstore.Object{}, objectstore.Fail(ctx, "put", key, objectstore.ErrExists, nil)
	}
	h := sha256.New()
	var src io.Reader = r
	if size <= objectstore.MaxSwap {
		src = io.TeeReader(io.LimitReader(r, size), h)
	}
	f, err := s.write(ctx, src, size)
	if err != nil {
		return objectstore.Object{}, failWrite(ctx, "put", key, err)
	}
	st, err := f.Stat()
	if err == nil {
		err = s.publish(f, key, false)
	}
	if err != nil {
		discard(f)
		return objectstore.Object{}, fail(ctx, "put", key, err)
	}
	_ = f.Close()
	return objectstore.Object{Key: key, Size: size, ETag: etagOf(h.Sum(nil), st)}, nil
}

// failWrite is fail for errors of writing: a missing name there is a missing
// store, not a missing object.
func failWrite(ctx context.Context, op, key string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return objectstore.Fail(ctx, op, key, objectstore.ErrNoBucket, err)
	}
	return fail(ctx, op, key, err)
}

// failRead is fail for errors of opening an object: is it the object that is
// missing, or the store (a mount that went away, for example)?
func (s *Store) failRead(ctx context.Context, op, key string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		if _, serr := os.Lstat(s.own(tmpDir)); errors.Is(serr, fs.ErrNotExist) {
			return objectstore.Fail(ctx, op, key, objectstore.ErrNoBucket, serr)
		}
	}
	return fail(ctx, op, key, err)
}

// etagOf is the content's hash for what Swap may have written, and what tells
// one file from another for larger ones, which never change.
func etagOf(sum []byte, st fs.FileInfo) string {
	if st.Size() <= objectstore.MaxSwap {
		return hex.EncodeToString(sum[:16])
	}
	return fmt.Sprintf("%x-%x", st.Size(), st.ModTime().UnixNano())
}

// lock takes the swap lock. Each call opens the file anew, so it keeps
// goroutines apart as well as processes.
func (s *Store) lock(ctx context.Context) (unlock func(), err error) {
	f, err := os.OpenFile(s.own("swap.lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	t := time.NewTicker(lockTry)
	defer t.Stop()
	for {
		if err = ctx.Err(); err == nil {
			err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		}
		switch err {
		case nil:
			return func() { _ = f.Close() }, nil
		case unix.EWOULDBLOCK, unix.EINTR:
		default:
			_ = f.Close()
			return nil, err
		}
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
}

// Swap replaces the file under the lock if its content's hash is etag.
func (s *Store) Swap(ctx context.Context, key string, data []byte, etag string) (objectstore.Object, error) {
	if err := objectstore.CheckSwap(key, data); err != nil {
		return objectstore.Object{}, objectstore.Fail(ctx, "swap", key, objectstore.ErrKey, err)
	}
	f, err := s.write(ctx, bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return objectstore.Object{}, failWrite(ctx, "swap", key, err)
	}
	sum := sha256.Sum256(data)
	st, err := f.Stat()
	if err == nil {
		err = s.swapLocked(ctx, f, key, etag)
	}
	if err != nil {
		discard(f)
		return objectstore.Object{}, err
	}
	_ = f.Close()
	return objectstore.Object{Key: key, Size: int64(len(data)), ETag: etagOf(sum[:], st)}, nil
}

func (s *Store) swapLocked(ctx context.Context, f *os.File, key, etag string) error {
	unlock, err := s.lock(ctx)
	if err != nil {
		return failWrite(ctx, "swap", key, err)
	}
	defer unlock()
	if etag != "" {
		obj, err := s.Head(ctx, key)
		if errors.Is(err, objectstore.ErrNotFound) || err == nil && obj.ETag != etag {
			return objectstore.Fail(ctx, "swap", key, objectstore.ErrExists, err)
		}
		if err != nil {
			return err
		}
	}
	if err := s.publish(f, key, etag != ""); err != nil {
		return fail(ctx, "swap", key, err)
	}
	return nil
}

// openObject opens a key's file; a folder or anything else is no object.
func (s *Store) openObject(key string) (*os.File, fs.FileInfo, error) {
	f, err := os.OpenFile(s.path(key), os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fs.ErrNotExist
	}
	if err != nil {
		_ = f.Close()
		return nil, nil, err
	}
	return f, st, nil
}

// identify gives an open file's ETag, reading it if it is small.
func identify(ctx context.Context, f *os.File, st fs.FileInfo) (string, error) {
	h := sha256.New()
	if st.Size() <= objectstore.MaxSwap {
		if _, err := io.Copy(h, &ctxReader{ctx, io.NewSectionReader(f, 0, st.Size())}); err != nil {
			return "", err
		}
	}
	return etagOf(h.Sum(nil), st), nil
}

// Head describes an object.
func (s *Store) Head(ctx context.Context, key string) (objectstore.Object, error) {
	if err := objectstore.CheckKey(key); err != nil {
		return objectstore.Object{}, objectstore.Fail(ctx, "head", key, objectstore.ErrKey, err)
	}
	if err := ctx.Err(); err != nil {
		return objectstore.Object{}, objectstore.Fail(ctx, "head", key, nil, err)
	}
	f, st, err := s.openObject(key)
	if err != nil {
		return objectstore.Object{}, s.failRead(ctx, "head", key, err)
	}
	defer func() { _ = f.Close() }()
	etag, err := identify(ctx, f, st)
	if err != nil {
		return objectstore.Object{}, fail(ctx, "head", key, err)
	}
	return objectstore.Object{Key: key, Size: st.Size(), Modified: st.ModTime(), ETag: etag}, nil
}

// GetRange opens a range. An object that is deleted or swapped meanwhile stays
// readable to who has it open.
func (s *Store) GetRange(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	if err := objectstore.CheckGet(key, off, n); err != nil {
		return nil, objectstore.Fail(ctx, "get", key, nil, err)
	}
	if err := ctx.Err(); err != nil {
		return nil, objectstore.Fail(ctx, "get", key, nil, err)
	}
	f, st, err := s.openObject(key)
	if err != nil {
		return nil, s.failRead(ctx, "get", key, err)
	}
	if off > st.Size() || n >= 0 && off+n > st.Size() {
		_ = f.Close()
		return nil, objectstore.Fail(ctx, "get", key, objectstore.ErrRange, fmt.Errorf("bytes %d+%d of %d", off, n, st.Size()))
	}
	if n < 0 {
		n = st.Size() - off
	}
	etag, err := identify(ctx, f, st)
	if err != nil {
		_ = f.Close()
		return nil, fail(ctx, "get", key, err)
	}
	return objectstore.NewBody(&fileBody{ctxReader{ctx, io.NewSectionReader(f, off, n)}, f}, key, n, etag), nil
}

type fileBody struct {
	ctxReader
	f *os.File
}

func (b *fileBody) Close() error { return b.f.Close() }

// removeLocked removes a file; the lock keeps it out of a Swap's comparison.
func (s *Store) removeLocked(ctx context.Context, path string) (removed bool, err error) {
	unlock, err := s.lock(ctx)
	if err != nil {
		return false, err
	}
	defer unlock()
	st, err := os.Lstat(path)
	if err == nil && st.Mode().IsRegular() {
		err = os.Remove(path)
		removed = err == nil
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		err = nil
	}
	return removed, err
}

// Delete removes the file, and the folders that it leaves empty.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := objectstore.CheckKey(key); err != nil {
		return objectstore.Fail(ctx, "delete", key, objectstore.ErrKey, err)
	}
	path := s.path(key)
	if removed, err := s.removeLocked(ctx, path); err != nil {
		return fail(ctx, "delete", key, err)
	} else if !removed {
		return nil
	}
	dir := filepath.Dir(path)
	for dir != s.dir && strings.HasPrefix(dir, s.dir) {
		if unix.Rmdir(dir) != nil {
			break
		}
		dir = filepath.Dir(dir)
	}
	if err := syncDir(dir); err != nil {
		return fail(ctx, "delete", key, err)
	}
	return nil
}
