package journal

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/firnlog/firn/broker/disk"
)

const (
	fileSuffix     = ".journal"
	checkpointName = "checkpoint"
)

// file is one of the journal's files. It is free, or in use by one
// generation; the newest of those in use is written to.
type file struct {
	path       string
	number     int
	size       int64
	generation int64 // 0: free
	first      int64 // sequence of the first group
	end        int64 // of the last whole group
	records    int

	out *os.File // nil until it is written to

	// Who has to be durable elsewhere before the file is free, and which
	// partitions' records nobody has asked for since the start, or are being cut
	// back.
	logs      map[Log]struct{}
	unclaimed map[Partition]struct{}
}

// hold keeps the file until somebody has asked for a partition's records.
func (f *file) hold(p Partition) {
	if f.unclaimed == nil {
		f.unclaimed = map[Partition]struct{}{}
	}
	f.unclaimed[p] = struct{}{}
}

// open makes the file ready to be written, past the page cache where the file
// system can do that.
func (f *file) open() error {
	if f.out != nil {
		return nil
	}
	out, err := disk.OpenDirect(f.path, os.O_RDWR)
	f.out = out
	return err
}

func (f *file) close() {
	if f.out != nil {
		f.out.Close()
		f.out = nil
	}
}

// create makes a file of zeroes that are written, so that writing over them
// changes nothing but the bytes, and makes its name durable.
func create(d *disk.Disk, dir string, number int, size int64) (f *file, err error) {
	path := filepath.Join(dir, fmt.Sprintf("%08d%s", number, fileSuffix))
	out, err := d.Create(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		out.Close()
		if err != nil {
			_ = d.Remove(path) // nothing is in it
		}
	}()
	zeroes := make([]byte, min(size, 1<<20))
	for at := int64(0); at < size; at += int64(len(zeroes)) {
		if _, err := d.WriteAt(out, zeroes[:min(int64(len(zeroes)), size-at)], at); err != nil {
			return nil, fmt.Errorf("making %s: %w", path, err)
		}
	}
	if err := d.Sync(out); err != nil {
		return nil, fmt.Errorf("making %s: %w", path, err)
	}
	if err := d.SyncDir(dir); err != nil {
		return nil, err
	}
	return &file{path: path, number: number, size: size}, nil
}
