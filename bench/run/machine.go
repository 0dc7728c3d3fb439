package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// machine says where the figures come from. dir is on the disk that the
// brokers use.
func machine(dir string) []Fact {
	return []Fact{
		{"CPU", fmt.Sprintf("%d × %s", runtime.NumCPU(), field("/proc/cpuinfo", "model name"))},
		{"memory", field("/proc/meminfo", "MemTotal")},
		{"kernel", output("uname", "-srm")},
		{"disk", output("findmnt", "-n", "-o", "SOURCE,FSTYPE,OPTIONS", "--target", dir)},
		{"dirty pages", fmt.Sprintf("written from %s %%, waited for at %s %% of memory", setting("vm/dirty_background_ratio"), setting("vm/dirty_ratio"))},
		{"memory that was freed", freed()},
		{"Go", runtime.Version()},
		{"driver", fmt.Sprintf("bench/blast in the runner's process; values of %d bytes of flight records as JSON, %d MiB of different ones", valueSize, pool>>20)},
	}
}

// freed says whether the kernel tells the host of free pages, so that their
// next touch is slow.
func freed() string {
	if _, err := os.Stat("/sys/module/page_reporting"); err != nil {
		return "stays the machine's"
	}
	return "may go back to the host (free page reporting)"
}

// field is the value of the first line "name : value" of a file.
func field(path, name string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return "?"
}

func setting(name string) string {
	b, err := os.ReadFile(filepath.Join("/proc/sys", name))
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(b))
}

// empty cuts all files of a folder to nothing. They are deleted only at the end
// of the run: ext4 passes over each inode that was deleted within some minutes
// when it looks for a free one, so that after many deletions a new file takes
// a millisecond, which would count against whoever is measured next.
func empty(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			err = os.Truncate(path, 0)
		}
		return err
	})
}

// settle writes what is dirty in the page cache to the disk, and has had as
// much memory touched as will be written next: a virtual machine may give
// memory back to its host seconds after it was freed.
func settle(dir string, writes int64) error {
	unix.Sync()
	return warm(dir, writes)
}

// warm writes a file of so many bytes and deletes it: the first touch of a
// virtual machine's memory costs more than all that follow.
func warm(dir string, bytes int64) error {
	f, err := os.Create(filepath.Join(dir, "warm"))
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	block := make([]byte, 1<<20)
	for left := bytes; left > 0; left -= int64(len(block)) {
		if _, err := f.Write(block); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return f.Close()
}
