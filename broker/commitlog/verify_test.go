package commitlog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/firnlog/firn/record"
)

func verify(t testing.TB, dir string) Verified {
	t.Helper()
	before := contents(t, dir)
	v, err := Verify(t.Context(), dir, t.TempDir(), topicID, Config{SegmentBytes: 1000}, Deps{Log: quiet}, func(int64) {})
	if err != nil {
		t.Fatal(err)
	}
	after := contents(t, dir)
	if len(before) != len(after) {
		t.Errorf("%d files became %d", len(before), len(after))
	}
	for name, b := range before {
		if !slices.Equal(b, after[name]) {
			t.Errorf("%s was changed", name)
		}
	}
	return v
}

func contents(t testing.TB, dir string) map[string][]byte {
	t.Helper()
	names, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	all := map[string][]byte{}
	for _, e := range names {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all[e.Name()] = b
	}
	return all
}

// TestVerify: what is wrong with a folder is told, with its place, and the
// folder stays as it is.
func TestVerify(t *testing.T) {
	damaged := func(v Verified, name string, refused bool, offset record.Offset) bool {
		return len(v.Damage) == 1 && filepath.Base(v.Damage[0].Path) == name && v.Damage[0].Refused == refused && v.Damage[0].Offset == offset && v.Damage[0].Err != nil
	}
	for name, c := range map[string]struct {
		change func(dir string)
		want   func(v Verified, end record.Offset) bool
	}{
		"closed properly": {func(string) {}, func(v Verified, end record.Offset) bool {
			return v.Clean && v.End == end && v.Segments > 3 && len(v.Damage)+len(v.Indexes)+len(v.Anew)+len(v.Cut)+len(v.Removed) == 0
		}},
		"no folder": {func(dir string) { os.RemoveAll(dir) }, func(v Verified, _ record.Offset) bool {
			return v.End == 0 && len(v.Damage) == 0
		}},
		"a torn tail": {func(dir string) { appendTo(t, last(t, dir), []byte("half a batch")) }, func(v Verified, end record.Offset) bool {
			return !v.Clean && v.End == end && len(v.Cut) == 1 && v.Cut[0].Bytes == 12 && v.Cut[0].Offset == end && len(v.Damage) == 0
		}},
		"a flipped bit in a sealed segment": {func(dir string) { flip(t, path(dir, 0, logSuffix), 100) }, func(v Verified, _ record.Offset) bool {
			return v.Clean && damaged(v, "00000000000000000000.log", false, 0) && v.Damage[0].Position == 0
		}},
		"a flipped bit below what was synced": {func(dir string) {
			flip(t, last(t, dir), 100)
			os.Remove(path(dir, 0, indexSuffix))
			appendTo(t, last(t, dir), []byte("grown"))
		}, func(v Verified, _ record.Offset) bool {
			return len(v.Damage) == 1 && v.Damage[0].Refused && v.Damage[0].Position == 0 && v.Damage[0].Offset > 0
		}},
		"the first segment is missing": {func(dir string) { os.Remove(path(dir, 0, logSuffix)) }, func(v Verified, _ record.Offset) bool {
			return v.Start == 0 && v.Local > 0 && len(v.Damage) == 0
		}},
		"a segment between others is missing": {func(dir string) { os.Remove(logs(t, dir)[1]) }, func(v Verified, _ record.Offset) bool {
			return len(v.Damage) == 1 && errors.Is(v.Damage[0].Err, ErrMissing) && v.Damage[0].Offset > 0
		}},
		"the last segment is missing": {func(dir string) { os.Remove(last(t, dir)) }, func(v Verified, end record.Offset) bool {
			return len(v.Damage) == 1 && v.Damage[0].Refused && errors.Is(v.Damage[0].Err, ErrMissing) && v.Damage[0].Offset < end
		}},
		"all segments are missing": {func(dir string) {
			for _, f := range logs(t, dir) {
				os.Remove(f)
			}
		}, func(v Verified, end record.Offset) bool { return v.Missing == Range{0, end} && v.End == end }},
		"an index is missing, another damaged": {func(dir string) {
			os.Remove(path(dir, 0, indexSuffix))
			flip(t, path(dir, 0, timeSuffix), 30)
		}, func(v Verified, _ record.Offset) bool {
			return slices.Equal(v.Indexes, []string{"00000000000000000000.index", "00000000000000000000.timeindex"}) && len(v.Damage) == 0
		}},
		"partition.meta is damaged": {func(dir string) { flip(t, filepath.Join(dir, metaName), 30) }, func(v Verified, end record.Offset) bool {
			return slices.Contains(v.Anew, metaName) && v.End == end && len(v.Damage) == 0
		}},
		"a file that was never finished": {func(dir string) { os.WriteFile(path(dir, 0, indexSuffix+tmpSuffix), nil, 0o600) }, func(v Verified, _ record.Offset) bool {
			return slices.Equal(v.Removed, []string{"00000000000000000000.index.tmp"})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			dir, end := sealedLog(t)
			c.change(dir)
			v := verify(t, dir)
			if !c.want(v, end) {
				t.Errorf("end %d: %+v", end, v)
			}
			if _, err := os.Stat(dir); err != nil {
				return
			}
			// The real thing does the same.
			l, err := Open(dir, topicID, Config{SegmentBytes: 1000}, Deps{Log: quiet})
			if refused := len(v.Damage) > 0 && v.Damage[0].Refused; refused != (err != nil) {
				t.Fatalf("refused %v: %v", refused, err)
			}
			if err == nil {
				if did := l.Recovered(); fmt.Sprint(did) != fmt.Sprint(v.Recovered) {
					t.Errorf("recovery did %+v, and %+v was foretold", did, v.Recovered)
				}
				l.Close()
			}
		})
	}
}

func logs(t testing.TB, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"+logSuffix))
	if err != nil || len(names) < 3 {
		t.Fatal(names, err)
	}
	return names
}

func last(t testing.TB, dir string) string { all := logs(t, dir); return all[len(all)-1] }

func appendTo(t testing.TB, path string, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = f.Write(b)
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}
