package commitlog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"
)

// trash holds files that no longer belong to the log, renamed to *.deleted,
// until file.delete.delay.ms is over (Config.DeleteDelay), as Kafka does:
// somebody who deleted too much can still take them from the folder. There
// are no more of them than segments were removed within that time. What is
// left of them when the log is closed goes when it is opened; what a full
// disk needs goes at once.
type trash struct {
	log     *Log
	mu      sync.Mutex // held across renames, not across removals, which take long when files are large
	files   []trashed
	made    int         // names given so far: two segments may have the same base
	timer   *time.Timer // of next, nil: none
	next    time.Time
	stopped bool
	work    sync.WaitGroup // removals by the timer
}

type trashed struct {
	path string
	size int64
	due  time.Time
}

// put takes a file out of the log. One that is not there is no error.
func (t *trash) put(path string) error {
	delay := t.log.cfg.Load().DeleteDelay
	t.mu.Lock()
	defer t.mu.Unlock()
	var err error
	if delay <= 0 || t.stopped {
		err = t.log.disk.Remove(path)
	} else {
		var size int64
		if st, serr := os.Stat(path); serr == nil {
			size = st.Size()
		}
		to := fmt.Sprintf("%s.%d%s", path, t.made, deletedSuffix)
		if err = t.log.disk.Rename(path, to); err == nil {
			t.made++
			t.addLocked(trashed{path: to, size: size, due: time.Now().Add(delay)})
		} else if isFull(err) { // the longer name does not fit in the folder
			err = t.log.disk.Remove(path)
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (t *trash) addLocked(f trashed) {
	t.files = append(t.files, f)
	trashFiles.Add(1)
	trashBytes.Add(f.size)
	t.armLocked(f.due)
}

// armLocked sets the timer, unless it goes off earlier than due.
func (t *trash) armLocked(due time.Time) {
	if t.timer != nil {
		if !due.Before(t.next) {
			return
		}
		t.timer.Stop()
	}
	t.next = due
	t.timer = time.AfterFunc(max(time.Until(due), time.Millisecond), t.removeDue)
}

// removeDue removes what has waited long enough. A shorter delay that was set
// meanwhile counts for what is put in later.
func (t *trash) removeDue() {
	t.mu.Lock()
	t.timer = nil
	if t.stopped {
		t.mu.Unlock()
		return
	}
	t.work.Add(1)
	defer t.work.Done()
	due := t.takeLocked(time.Now())
	if len(t.files) > 0 { // not in the order in which they are due, if the delay was changed
		t.armLocked(slices.MinFunc(t.files, func(a, b trashed) int { return a.due.Compare(b.due) }).due)
	}
	t.mu.Unlock()
	t.remove(due)
}

// takeLocked gives the files that are due at that time; the caller removes them.
func (t *trash) takeLocked(at time.Time) (due []trashed) {
	t.files = slices.DeleteFunc(t.files, func(f trashed) bool {
		if f.due.After(at) {
			return false
		}
		due = append(due, f)
		return true
	})
	return due
}

func (t *trash) remove(files []trashed) {
	for _, f := range files {
		if err := t.log.disk.Remove(f.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.log.deps.Log.Warn("a deleted segment's file cannot be removed; the next start tries again", "file", f.path, "err", err)
		}
		trashFiles.Add(-1)
		trashBytes.Add(-f.size)
	}
}

// empty removes everything at once: the disk is full.
func (t *trash) empty() {
	t.mu.Lock()
	all := t.takeLocked(time.Unix(1<<40, 0))
	t.mu.Unlock()
	t.remove(all)
}

// stop forgets what is left; the next Open removes it.
func (t *trash) stop() {
	defer t.work.Wait()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stopped = true
	if t.timer != nil {
		t.timer.Stop()
	}
	for _, f := range t.files {
		trashFiles.Add(-1)
		trashBytes.Add(-f.size)
	}
	t.files = nil
}
