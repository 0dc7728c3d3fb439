package commitlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/firnlog/firn/record"
)

// Every binary file but the segment itself has the same frame, big-endian:
//
//	0        4        8         10     12            20            24
//	┌────────┬────────┬─────────┬──────┬─────────────┬─────────────┬──────┬────────┐
//	│ "FIRN" │ kind 4 │version 2│ 0  2 │base offset 8│body length 4│ body │crc32c 4│
//	└────────┴────────┴─────────┴──────┴─────────────┴─────────────┴──────┴────────┘
//
// The checksum covers everything before it.
const (
	frameHead  = 24
	frameExtra = frameHead + 4
)

const (
	kindOffsets   = "OIDX"
	kindTimes     = "TIDX"
	kindTxns      = "TXNS"
	kindProducers = "PROD"
	kindMeta      = "META"
)

const formatVersion = 1

// ErrFormat says that a small file is not what its name promises, or damaged.
// Such files are made anew from the segments, where that is possible.
var ErrFormat = errors.New("commitlog: damaged or foreign file")

func beginFrame(kind string, base record.Offset, size int) []byte {
	b := make([]byte, frameHead, frameExtra+size)
	copy(b, "FIRN")
	copy(b[4:], kind)
	binary.BigEndian.PutUint16(b[8:], formatVersion)
	binary.BigEndian.PutUint64(b[12:], uint64(base))
	return b
}

func endFrame(b []byte) []byte {
	binary.BigEndian.PutUint32(b[20:], uint32(len(b)-frameHead))
	return binary.BigEndian.AppendUint32(b, record.CRC32C(b))
}

func openFrame(kind string, b []byte) (base record.Offset, body []byte, err error) {
	switch {
	case len(b) < frameExtra:
		return 0, nil, fmt.Errorf("%w: %d bytes are too few", ErrFormat, len(b))
	case string(b[:4]) != "FIRN" || string(b[4:8]) != kind:
		return 0, nil, fmt.Errorf("%w: begins with %q, want %q", ErrFormat, b[:8], "FIRN"+kind)
	case binary.BigEndian.Uint16(b[8:]) != formatVersion:
		return 0, nil, fmt.Errorf("%w: format version %d, this program knows %d", ErrFormat, binary.BigEndian.Uint16(b[8:]), formatVersion)
	case int64(binary.BigEndian.Uint32(b[20:])) != int64(len(b)-frameExtra):
		return 0, nil, fmt.Errorf("%w: body of %d bytes in a file of %d", ErrFormat, binary.BigEndian.Uint32(b[20:]), len(b))
	}
	end := len(b) - 4
	if got, want := record.CRC32C(b[:end]), binary.BigEndian.Uint32(b[end:]); got != want {
		return 0, nil, fmt.Errorf("%w: stored crc %08x, computed %08x", ErrFormat, want, got)
	}
	return record.Offset(binary.BigEndian.Uint64(b[12:])), b[frameHead:end], nil
}

// replaceFile writes a whole file beside its final name, syncs it and renames
// it. The folder is not synced. On error nothing has changed.
func (d *disk) replaceFile(path string, content []byte) error {
	tmp := path + tmpSuffix
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = d.writeAt(f, content, 0)
	if err == nil {
		err = d.sync(f)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = d.rename(tmp, path)
	}
	if err != nil {
		os.Remove(tmp)
		return fmt.Errorf("writing %s: %w", filepath.Base(path), err)
	}
	return nil
}

// disk is every call that changes durable bytes, so that tests can make it
// fail.
type disk struct {
	writeAt func(f *os.File, p []byte, off int64) (int, error)
	sync    func(f *os.File) error
	trunc   func(f *os.File, size int64) error
	reserve func(f *os.File, size int64) error
	rename  func(from, to string) error
	remove  func(path string) error
}

func realDisk() *disk {
	return &disk{
		writeAt: func(f *os.File, p []byte, off int64) (int, error) { return f.WriteAt(p, off) },
		sync:    func(f *os.File) error { return f.Sync() },
		trunc:   func(f *os.File, size int64) error { return f.Truncate(size) },
		reserve: reserve,
		rename:  os.Rename,
		remove:  os.Remove,
	}
}

func (d *disk) syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return d.sync(f)
}
