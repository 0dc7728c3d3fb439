package journal

import (
	"errors"
	"io"

	"github.com/firnlog/firn/broker/disk"
)

// Group is what one sync made durable, as ReadFile finds it.
type Group struct {
	Journal    ID
	Generation int64 // of the file
	Sequence   int64 // of the group, through all files
	Position   int64 // byte in the file
	Length     int64 // bytes, a multiple of disk.Block
	Records    []Record
}

// Record is a record of a Group.
type Record struct {
	Entry
	Position int64  // byte in the file
	Payload  []byte // whole record batches; valid until the next group
}

// ReadFile reads the groups of one file of a journal, and gives the byte
// where the first that does not belong to them would begin. cause says what
// is there instead: what the file held when it was used before, a group that
// was never finished, or damage. A single file cannot tell which. Errors: of
// reading, and of f, which ends it.
func ReadFile(r io.ReaderAt, size int64, f func(*Group) error) (end int64, cause, err error) {
	var rd reader
	generation := int64(0)
	for {
		g, b, err := rd.group(r, size, end, generation)
		if err == nil {
			err = g.check(b)
		}
		if errors.Is(err, disk.ErrFormat) {
			return end, err, nil
		}
		if err != nil {
			return end, nil, err
		}
		out := Group{Journal: g.journal, Generation: g.generation, Sequence: g.sequence, Position: end, Length: g.length}
		for _, e := range g.entries {
			out.Records = append(out.Records, Record{Entry: e.Entry, Position: end + int64(e.pos), Payload: b[e.pos : e.pos+e.length]})
		}
		if err := f(&out); err != nil {
			return end, nil, err
		}
		generation = g.generation
		end += g.length
	}
}
