package journal

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/firnlog/firn/record"
)

// How many logs are flushed at one time: for a group, which is waited for, and
// by a checkpoint, which must not hold up the groups that are written meanwhile.
const (
	groupFlushers      = 16
	checkpointFlushers = 2
)

// keeper is the goroutine that sees to it that there is a free file before
// the one in use is full: it makes one while there are fewer than the
// configuration allows, and has the logs flushed that the oldest files wait
// for.
func (j *Journal) keeper() {
	var again <-chan time.Time
	for {
		select {
		case <-again:
		case <-j.stop:
			if j.failed() != nil {
				return
			}
			if err := j.checkpoint(true); passes(err) {
				j.deps.Log.Warn("the journal's last checkpoint has no room: the next start goes through the journal", "dir", j.dir, "err", err)
			} else if err != nil {
				j.fail(err)
			}
			return
		case <-j.keep:
		}
		again = nil
		err := j.makeFile()
		if err != nil && !passes(err) {
			j.fail(err)
			return
		}
		if err != nil || j.due() {
			failed := j.checkpoint(false)
			if failed != nil && !passes(failed) {
				j.fail(failed)
				return
			}
			err = cmp.Or(err, failed) // no file was set free
		}
		if j.without(err) || err != nil {
			again = time.After(retry)
		}
	}
}

// retry is when a file that could not be made is tried again.
const retry = time.Second

// passes says whether a file can be made, or written anew, later that could not
// be: the disk is full, or the process is out of something; the disk has not
// failed.
func passes(err error) bool {
	for _, e := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// without notes whether there is no free file because one could not be made.
func (j *Journal) without(err error) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.free) > 0 {
		err = nil
	}
	switch was := j.noRoom; {
	case err != nil && was == nil:
		j.deps.Log.Warn("the journal has no file left and cannot make another: until it can, groups are synced in their segments", "dir", j.dir, "err", err)
	case err == nil && was != nil:
		j.deps.Log.Info("the journal has a file again", "dir", j.dir)
	}
	j.noRoom = err
	j.work.Broadcast()
	return err != nil
}

func (j *Journal) wakeKeeper() {
	select {
	case j.keep <- struct{}{}:
	default:
	}
}

// makeFile makes a file if none is free and there may be more.
func (j *Journal) makeFile() error {
	j.mu.Lock()
	number := 0
	if len(j.free) == 0 && j.files < j.cfg.Files+j.heldLocked() {
		for _, f := range j.used {
			number = max(number, f.number)
		}
		number++
	}
	j.mu.Unlock()
	if number == 0 {
		return nil
	}
	f, err := create(j.disk, j.dir, number, j.cfg.FileBytes)
	if err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.files++
	j.free = append(j.free, f)
	j.work.Broadcast()
	return nil
}

// heldLocked counts the files that partitions which could not be opened hold.
func (j *Journal) heldLocked() (n int) {
	for _, f := range j.used {
		if len(f.unclaimed) > 0 {
			n++
		}
	}
	return n
}

// worthwhile is how many bytes of each log a checkpoint should find, about: so
// few that syncing them does not hold up the journal's own writes for long, and
// so many that the disk does not write little more than the ends of files.
const worthwhile = 512 << 10

// due says whether there is enough to flush of each log, or half of the window
// is used up.
func (j *Journal) due() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	full, records, logs := 0, 0, 0
	for _, f := range j.used {
		records += f.records
		logs = max(logs, len(f.logs))
		if len(f.unclaimed) == 0 {
			full++
		}
	}
	if n := len(j.used); n > 0 && j.writing && len(j.used[n-1].unclaimed) == 0 {
		full-- // the one that is written to
	}
	return full >= j.cfg.Files/2 || records > j.cfg.WindowCount/2 || full > 0 && int64(full)*j.cfg.FileBytes >= int64(logs)*worthwhile
}

// checkpoint has every log flushed that the files in use wait for, the newest
// aside unless all is set, and sets those files free.
func (j *Journal) checkpoint(all bool) error {
	files, logs := j.waitedFor(all)
	if len(files) == 0 {
		return nil
	}
	synced, err := j.flushAll(logs)
	if err != nil {
		return err
	}
	c := j.settle(files, synced)
	if err := j.replaceCheckpoint(c); err != nil {
		return fmt.Errorf("writing the journal's checkpoint: %w", err)
	}
	checkpoints.Inc()
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, f := range files {
		if slices.Contains(c.Needed, f.generation) {
			continue
		}
		j.used = slices.DeleteFunc(j.used, func(u *file) bool { return u == f })
		f.generation, f.logs = 0, nil
		j.free = append(j.free, f)
	}
	j.forgetLocked()
	j.work.Broadcast()
	return nil
}

// waitedFor gives the files that are to be set free and the logs that they
// wait for.
func (j *Journal) waitedFor(all bool) ([]*file, []Log) {
	j.mu.Lock()
	defer j.mu.Unlock()
	maps.DeleteFunc(j.limits, func(_ Partition, l *limit) bool { return l.over })
	files := slices.Clone(j.used)
	if n := len(files); n > 0 && j.writing && !all {
		files = files[:n-1]
	}
	seen := map[Log]struct{}{}
	for _, f := range files {
		for l := range f.logs {
			seen[l] = struct{}{}
		}
	}
	logs := make([]Log, 0, len(seen))
	for l := range seen {
		logs = append(logs, l)
	}
	return files, logs
}

// flushAll flushes logs, with one call for all when they are many.
func (j *Journal) flushAll(logs []Log) (map[Log]record.Offset, error) {
	if len(logs) < j.cfg.SyncAllFrom || j.disk.SyncAll == nil {
		return flush(logs, checkpointFlushers)
	}
	synced := make(map[Log]record.Offset, len(logs))
	for _, l := range logs {
		synced[l] = l.End()
	}
	return synced, j.disk.SyncAll(j.root)
}

// flush flushes logs, several at a time, and says how far each is durable.
func flush(logs []Log, flushers int) (map[Log]record.Offset, error) {
	var (
		mu     sync.Mutex
		synced = make(map[Log]record.Offset, len(logs))
		errs   []error
		wg     sync.WaitGroup
	)
	for i := range min(flushers, len(logs)) {
		wg.Go(func() {
			for k := i; k < len(logs); k += flushers {
				end, err := logs[k].Flush()
				mu.Lock()
				if err != nil {
					errs = append(errs, err)
				} else {
					synced[logs[k]] = end
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return synced, errors.Join(errs...)
}

// settle gives the checkpoint after which files are free, save those of which
// a partition has not been claimed.
func (j *Journal) settle(files []*file, synced map[Log]record.Offset) *Checkpoint {
	j.mu.Lock()
	defer j.mu.Unlock()
	for l, end := range synced {
		p := j.names[l]
		if end < 0 {
			delete(j.synced, p)
			continue
		}
		if l := j.limits[p]; l != nil {
			end = min(end, l.at)
		}
		j.synced[p] = max(j.synced[p], end)
	}
	held := map[Partition]struct{}{}
	c := &Checkpoint{Journal: j.id, Sequence: j.sequence, Synced: maps.Clone(j.synced)}
	for _, f := range files {
		c.Last = max(c.Last, f.generation)
		if len(f.unclaimed) > 0 {
			c.Needed = append(c.Needed, f.generation)
			maps.Copy(held, f.unclaimed)
		}
	}
	c.Held = slices.SortedFunc(maps.Keys(held), comparePartitions)
	return c
}

// forgetLocked forgets the names of logs that no file waits for.
func (j *Journal) forgetLocked() {
	waited := map[Log]struct{}{}
	for _, f := range j.used {
		for l := range f.logs {
			waited[l] = struct{}{}
		}
	}
	for l := range j.names {
		if _, ok := waited[l]; !ok {
			delete(j.names, l)
		}
	}
}

func (j *Journal) replaceCheckpoint(c *Checkpoint) error {
	if err := j.disk.Replace(filepath.Join(j.dir, checkpointName), c.Encode()); err != nil {
		return err
	}
	return j.disk.SyncDir(j.dir)
}
