package check

import (
	"fmt"
	"slices"

	"github.com/firnlog/firn/test/chaos/history"
)

// groupKey is one committed offset of one group.
type groupKey struct {
	group string
	key   int32
}

// register is what a committed offset may be. A commit takes effect once,
// somewhere between being sent and being answered, or at any time after it was
// sent, or never, if nobody answered.
type register struct {
	commits []commit // in the order of their lines, those that can no more be read left out
	asked   int      // consumers that were told to begin and do not know where yet
}

// commit is one commit; done is the line of its acknowledgement, 0 for none.
type commit struct {
	sent, done int64
	offset     int64
	process    int32
}

func (c *Checker) register(group string, k int32) *register {
	at := groupKey{group, k}
	r := c.groups[at]
	if r == nil {
		r = &register{}
		c.groups[at] = r
	}
	return r
}

func (r *register) commit(line int64, e *history.Event) {
	r.commits = append(r.commits, commit{sent: line, offset: e.Offset, process: e.Process})
}

// committed finds the commit that is acknowledged: the last one of that process
// and offset. False for none.
func (r *register) committed(line int64, e *history.Event) bool {
	for i := range slices.Backward(r.commits) {
		if m := &r.commits[i]; m.process == e.Process && m.offset == e.Offset && m.done == 0 {
			m.done = line
			if r.asked == 0 {
				r.forget(line)
			}
			return true
		}
	}
	return false
}

// settled gives the line of the latest send among the commits that were done
// before a line: nobody who asks from then on is told a commit that was done
// before that send.
func (r *register) settled(before int64) int64 {
	var latest int64
	for _, m := range r.commits {
		if m.done > 0 && m.done < before {
			latest = max(latest, m.sent)
		}
	}
	return latest
}

// forget drops what nobody who asks after line can be told.
func (r *register) forget(line int64) {
	settled := r.settled(line + 1)
	r.commits = slices.DeleteFunc(r.commits, func(m commit) bool { return m.done > 0 && m.done < settled })
}

// fetched judges an offset that somebody was told who asked in line asked and
// was answered in line answered. It gives what is wrong, or nothing.
func (r *register) fetched(asked, answered, offset int64) string {
	var may []int64
	none := true // nothing was committed for sure when it was asked
	settled := r.settled(asked)
	for _, m := range r.commits {
		none = none && (m.done == 0 || m.done > asked)
		if m.sent < answered && (m.done == 0 || m.done >= settled) {
			may = append(may, m.offset)
		}
	}
	if none {
		may = append(may, -1)
	}
	if slices.Contains(may, offset) {
		return ""
	}
	slices.Sort(may)
	return fmt.Sprintf("it can be one of %v", slices.Compact(may))
}
