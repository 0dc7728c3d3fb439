package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// lockName is the file of a data folder that its broker has locked.
const lockName = "firn.lock"

// holder is what the lock file of a data folder says of its owner. It is for
// people; the lock itself is the kernel's and goes with the process.
type holder struct {
	PID     int       `json:"pid"`
	Host    string    `json:"host"`
	Started time.Time `json:"started"`
	Kafka   string    `json:"kafka"`
}

// lockFolder makes the data folder if need be and locks it for this process.
// The lock ends with release or with the process, however that ends.
func lockFolder(dir, kafka string) (release func(), err error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, failf("choose another folder with --data DIR", "data folder %s cannot be made: %w", dir, err)
	}
	path := filepath.Join(dir, lockName)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return nil, failf("choose a folder that this user may write to, with --data DIR", "data folder %s cannot be locked: %w", dir, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, &failure{
				err:  fmt.Errorf("data folder %s is in use by %s", dir, describeHolder(f)),
				hint: "stop that one first, or give this one a folder of its own with --data DIR",
				code: exitLocked,
			}
		}
		return nil, failf("", "lock %s: %w", path, err)
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	data, err := json.Marshal(holder{os.Getpid(), host, time.Now().UTC().Truncate(time.Second), kafka})
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt(append(data, '\n'), 0)
	}
	if err != nil {
		f.Close()
		return nil, failf("is the disk full?", "write %s: %w", path, err)
	}
	return func() {
		_ = f.Truncate(0) // a stale name would only confuse; the lock is what counts
		f.Close()
	}, nil
}

func describeHolder(f *os.File) string {
	data, err := io.ReadAll(io.LimitReader(f, 4096))
	var h holder
	if err != nil || json.Unmarshal(data, &h) != nil || h.PID == 0 {
		return "another firn that has only just started"
	}
	return fmt.Sprintf("the firn with pid %d on host %s, started %s, Kafka address %s", h.PID, h.Host, h.Started.Format(time.RFC3339), h.Kafka)
}
