// Package flights gives real records to send: US flights, which the npm
// package vega-datasets carries. Fetch gets the file once; tests that must run
// without npm make records of their own.
package flights

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/parquet-go/parquet-go"
)

const (
	pkg     = "vega-datasets"
	version = "3.2.1"
	file    = "flights-3m.parquet"
)

// Fetch gives the path of the Parquet file in Firn's cache ($FIRN_CACHE),
// which npm fills when it is not there (17 MB). `make demo` uses the same one.
func Fetch(ctx context.Context) (string, error) {
	cache := os.Getenv("FIRN_CACHE")
	if cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return "", err
		}
		cache = filepath.Join(dir, "firn")
	}
	path := filepath.Join(cache, "data", pkg+"-"+version, file)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	// In the same folder, so that the rename is one step.
	tmp, err := os.MkdirTemp(filepath.Dir(path), ".part-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	script := fmt.Sprintf("npm pack --silent %s@%s >&2 && tar xzf %s-%s.tgz package/data/%s", pkg, version, pkg, version, file)
	cmd := exec.CommandContext(ctx, "sh", "-c", script)
	cmd.Dir = tmp
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("get %s@%s, which needs npm (Debian: apt-get install npm): %w\n%s", pkg, version, err, out)
	}
	return path, os.Rename(filepath.Join(tmp, "package", "data", file), path)
}

// Flight is one row of the input.
type Flight struct {
	TimeMs          int64 // departure, milliseconds since the Unix epoch
	delay, distance int32
	origin, dest    [3]byte
}

// Read reads at most limit rows of the Parquet file (0: all), which are in the
// order of time, and calls progress with the number read so far.
func Read(path string, limit int, progress func(int)) ([]Flight, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	pf, err := parquet.OpenFile(f, st.Size())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	total := int(pf.NumRows())
	if limit > 0 {
		total = min(total, limit)
	}
	all := make([]Flight, 0, total)
	buf := make([]parquet.Row, 1024)
	for _, group := range pf.RowGroups() {
		rows := group.Rows()
		for len(all) < total {
			n, err := rows.ReadRows(buf[:min(len(buf), total-len(all))])
			for _, r := range buf[:n] {
				fl, ferr := toFlight(r)
				if ferr != nil {
					rows.Close()
					return nil, fmt.Errorf("%s, row %d: %w", path, len(all), ferr)
				}
				all = append(all, fl)
			}
			progress(len(all))
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				rows.Close()
				return nil, fmt.Errorf("%s, row %d: %w", path, len(all), err)
			}
		}
		rows.Close()
	}
	for i := 1; i < len(all); i++ {
		if all[i].TimeMs < all[i-1].TimeMs {
			return nil, fmt.Errorf("%s: row %d is earlier than the row before it", path, i)
		}
	}
	return all, nil
}

func toFlight(r parquet.Row) (Flight, error) {
	if len(r) != 5 || len(r[3].ByteArray()) != 3 || len(r[4].ByteArray()) != 3 {
		return Flight{}, fmt.Errorf("not a flight: %v", r)
	}
	fl := Flight{TimeMs: r[0].Int64() / 1000, delay: int32(r[1].Int64()), distance: int32(r[2].Int64())}
	copy(fl.origin[:], r[3].ByteArray())
	copy(fl.dest[:], r[4].ByteArray())
	return fl, nil
}

// Key is the airport the flight leaves from.
func (f *Flight) Key() []byte { return f.origin[:] }

// AppendJSON appends the flight as one JSON object of about 94 bytes.
func (f *Flight) AppendJSON(b []byte) []byte {
	b = append(b, `{"date":"`...)
	b = time.UnixMilli(f.TimeMs).UTC().AppendFormat(b, "2006-01-02T15:04:05")
	b = append(b, `","delay":`...)
	b = strconv.AppendInt(b, int64(f.delay), 10)
	b = append(b, `,"distance":`...)
	b = strconv.AppendInt(b, int64(f.distance), 10)
	b = append(b, `,"origin":"`...)
	b = append(b, f.origin[:]...)
	b = append(b, `","destination":"`...)
	b = append(b, f.dest[:]...)
	return append(b, `"}`...)
}
