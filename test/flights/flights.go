// Package flights gives real values to send: the records of US flights that
// the npm package vega-datasets carries, as JSON. Fetch gets the file once;
// tests that must run without npm make values of their own.
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

// JSON reads the first rows of the file, at most limit, each as one JSON
// object of about 94 bytes.
func JSON(path string, limit int) ([][]byte, error) {
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
	var all [][]byte
	buf := make([]parquet.Row, 1024)
	for _, group := range pf.RowGroups() {
		rows := group.Rows()
		for len(all) < limit {
			n, err := rows.ReadRows(buf[:min(len(buf), limit-len(all))])
			for _, r := range buf[:n] {
				if len(r) != 5 {
					rows.Close()
					return nil, fmt.Errorf("%s, row %d: not a flight: %v", path, len(all), r)
				}
				all = append(all, appendJSON(nil, r))
			}
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
	return all, nil
}

func appendJSON(b []byte, r parquet.Row) []byte {
	b = append(b, `{"date":"`...)
	b = time.UnixMicro(r[0].Int64()).UTC().AppendFormat(b, "2006-01-02T15:04:05")
	b = append(b, `","delay":`...)
	b = strconv.AppendInt(b, r[1].Int64(), 10)
	b = append(b, `,"distance":`...)
	b = strconv.AppendInt(b, r[2].Int64(), 10)
	b = append(b, `,"origin":"`...)
	b = append(b, r[3].ByteArray()...)
	b = append(b, `","destination":"`...)
	b = append(b, r[4].ByteArray()...)
	return append(b, `"}`...)
}
