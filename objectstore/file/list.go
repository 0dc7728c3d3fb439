package file

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"os"
	"sort"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/firnlog/firn/objectstore"
)

// List walks the folders in the byte order of keys, entering only those that
// can hold a key that is asked for. It holds one folder's names per level.
func (s *Store) List(ctx context.Context, prefix, after string) iter.Seq2[objectstore.Object, error] {
	return func(yield func(objectstore.Object, error) bool) {
		w := &walk{ctx: ctx, dir: s.dir, prefix: prefix, after: after, yield: yield}
		if _, err := os.Lstat(s.own(tmpDir)); err != nil {
			yield(objectstore.Object{}, failWrite(ctx, "list", prefix, err))
			return
		}
		w.folder("")
	}
}

type walk struct {
	ctx           context.Context
	dir           string
	prefix, after string
	yield         func(objectstore.Object, error) bool
}

// folder yields what is below base ("" or a key's beginning that ends in a
// slash); false: stop.
func (w *walk) folder(base string) bool {
	if err := w.ctx.Err(); err != nil {
		w.yield(objectstore.Object{}, objectstore.Fail(w.ctx, "list", w.prefix, nil, err))
		return false
	}
	entries, err := os.ReadDir(w.dir + "/" + base)
	if err != nil && !vanished(err) {
		w.yield(objectstore.Object{}, fail(w.ctx, "list", w.prefix, err))
		return false
	}
	// Keys compare byte by byte with the slash among them, so a folder sorts
	// as its name with a slash: a-b comes before what is in a.
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		switch name := e.Name(); {
		case strings.HasPrefix(name, "."):
		case e.IsDir():
			names = append(names, name+"/")
		case e.Type().IsRegular():
			names = append(names, name)
		}
	}
	sort.Strings(names)
	for _, name := range names {
		key := base + name
		if err := w.ctx.Err(); err != nil {
			w.yield(objectstore.Object{}, objectstore.Fail(w.ctx, "list", w.prefix, nil, err))
			return false
		}
		if strings.HasSuffix(name, "/") {
			if w.mayHold(key) && !w.folder(key) {
				return false
			}
			continue
		}
		if !strings.HasPrefix(key, w.prefix) || key <= w.after {
			continue
		}
		st, err := os.Lstat(w.dir + "/" + key)
		if err != nil {
			if vanished(err) {
				continue
			}
			w.yield(objectstore.Object{}, fail(w.ctx, "list", w.prefix, err))
			return false
		}
		if !w.yield(objectstore.Object{Key: key, Size: st.Size(), Modified: st.ModTime()}, nil) {
			return false
		}
	}
	return true
}

// mayHold says whether a folder can hold a key that is asked for.
func (w *walk) mayHold(folder string) bool {
	if !strings.HasPrefix(folder, w.prefix) && !strings.HasPrefix(w.prefix, folder) {
		return false
	}
	// All its keys begin with folder: they are above after, or after is one of them.
	return folder > w.after || strings.HasPrefix(w.after, folder)
}

func vanished(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR)
}
