package journal

import (
	"fmt"

	"github.com/firnlog/firn/record"
)

// truncation is an entry that waits for its group.
type truncation struct {
	Entry
	told bool
	err  error // why it is in no group
}

// limit is up to where a log was cut back. A flush that began before, and so
// does not know it, can say nothing of what is above.
type limit struct {
	at   record.Offset
	file *file // says so; nil: none does yet
	over bool  // a flush that begins from now on sees the log as it is
}

// Truncate says durably that a log is being cut back from offset e.Base to
// e.End: what the journal has of it at or above e.End, and what it says there
// of its segments, does not count any more. Then it calls cut, which changes
// the segments. Nobody appends for the log, and every Journaled of what was
// appended before has been called when cut is.
//
// A process that is killed in the middle of cut leaves segments that look as
// they should and are not durable. So the journal knows of the truncation until
// cut has returned without an error, see WasCut.
//
// Errors: cut's, or why it was not called: ErrClosed, ErrFailed, ErrNoFile.
func (j *Journal) Truncate(e Entry, cut func() error) error {
	if !e.Truncates() {
		return fmt.Errorf("journal: %v is to be cut back from offset %d to %d", e.Partition, e.Base, e.End)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.awaitLocked(func(*buffer) bool { return true }); err != nil {
		return err
	}
	l := &limit{at: e.End}
	if before := j.limits[e.Partition]; before != nil {
		l.at = min(l.at, before.at)
	}
	j.limits[e.Partition] = l
	t := &truncation{Entry: e}
	j.fill.truncations = append(j.fill.truncations, t)
	j.work.Broadcast()
	for !t.told && j.err == nil {
		j.told.Wait()
	}
	err := t.err
	if !t.told {
		err = j.err
	}
	if err == nil {
		truncations.Inc()
		j.mu.Unlock()
		err = cut()
		j.mu.Lock()
	}
	l.over = true
	if l.file != nil && err == nil {
		delete(l.file.unclaimed, e.Partition)
	}
	return err
}

// tellLocked wakes those whose truncations are in a group that was written, or
// that could not be.
func (j *Journal) tellLocked(b *buffer, err error) {
	if len(b.truncations) == 0 {
		return
	}
	for _, t := range b.truncations {
		if !t.told {
			t.told, t.err = true, err
		}
	}
	j.told.Broadcast()
}
