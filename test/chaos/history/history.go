// Package history is the record of a chaos run: what clients asked for, what
// they were told, and what was done to the brokers meanwhile, one event after
// the other with the time of each. It is written to a file as it happens and
// read back as a stream, so that its length costs disk and no memory. What the
// events mean for the brokers is judged elsewhere (test/chaos/check).
package history

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// Kind is what an event is about.
type Kind uint8

// The kinds of events, with the fields of Event that each has beside Time.
const (
	// Client begins a process: Process, Text (the client's id), Group, Traits.
	// A client that is opened anew is another process.
	Client Kind = iota + 1
	// Partition declares a key: Key, Text (topic), Number (of the partition).
	// A topic that is deleted and made again has other keys.
	Partition
	// Send is recorded before a record goes to the client library: Process,
	// Key, Value. What follows is one of Acked, Failed and Unknown, or nothing
	// when the run ends first.
	Send
	// Acked is a send that was acknowledged: Process, Key, Value, Offset (-1
	// where the broker did not say).
	Acked
	// Failed is a send that certainly added nothing: Process, Key, Value, Text
	// (the error).
	Failed
	// Unknown is a send that may or may not have added the record: Process,
	// Key, Value, Text (the error).
	Unknown
	// Poll is what one poll gave of one partition: Process, Key, High (the
	// high watermark that came with it, -1 for not known), Records.
	Poll
	// Assign gives a partition to a consumer: Process, Key. It is recorded
	// before the consumer asks where to begin.
	Assign
	// Position is where a consumer begins to read a partition: Process, Key,
	// Offset. For a group's member it is the committed offset, -1 for none.
	Position
	// Revoke takes a partition from a consumer: Process, Key.
	Revoke
	// Commit is recorded before an offset is committed: Process, Key, Offset.
	// Committed or nothing follows; a commit that failed may have been taken.
	Commit
	// Committed is a commit that was acknowledged: Process, Key, Offset.
	Committed
	// End says how far a partition went when everything had healed: Key, Start
	// and Offset, the first offset and the one after the last. It follows the
	// polls of a reader that has read all of it.
	End
	// Delete is recorded before a topic's deletion is asked for: Key.
	Delete
	// Leader is a change of leader that somebody saw: Key, Broker (-1 for
	// none), Epoch.
	Leader
	// Fault begins something that is done to the brokers: Number, Text.
	Fault
	// Heal ends the fault of that Number; Text says how that went.
	Heal
)

var names = [...]string{Client: "client", Partition: "partition", Send: "send", Acked: "ack", Failed: "fail", Unknown: "unknown", Poll: "poll",
	Assign: "assign", Position: "position", Revoke: "revoke", Commit: "commit", Committed: "committed", End: "end", Delete: "delete",
	Leader: "leader", Fault: "fault", Heal: "heal"}

// String gives the kind's name in the file.
func (k Kind) String() string {
	if int(k) < len(names) && names[k] != "" {
		return names[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Traits say what may be expected of a client.
type Traits uint8

const (
	// All: its sends ask for acks=all, so an acknowledgement is a promise.
	All Traits = 1 << iota
	// Idempotent: a record of it is in the log once, however often it is sent.
	Idempotent
	// Ordered: its records are in a partition in the order they were sent in.
	Ordered
	// Final: it reads everything when everything has healed.
	Final
	// Disk: it is no client but a replica's folder, looked at when all is over.
	Disk
)

// Record is one record as it was read.
type Record struct {
	Offset int64
	Value  Value
}

// Event is one line of a history. Kind says which fields count.
type Event struct {
	Time    int64 // nanoseconds of monotonic time since the run began
	Kind    Kind
	Process int32 // 0 to MaxProcess
	Key     int32 // 0 and up
	Number  int32
	Broker  int32
	Epoch   int32
	Traits  Traits
	Value   Value
	Offset  int64
	Start   int64
	High    int64
	Group   string
	Text    string
	Records []Record
}

// MaxProcess is the greatest number of a process.
const MaxProcess = 1<<13 - 1

const (
	countBits = 40
	maxCount  = 1<<countBits - 1
)

// Value names a record: the process that sent it and which of its records it
// is, counted over all partitions. Below 2^53, so that every reader of JSON
// can tell two of them apart.
type Value int64

// Damaged stands for a record whose bytes are not those of any Value.
const Damaged Value = -1

// MakeValue names the n-th record, from 0, of a process.
func MakeValue(process int32, n int64) Value {
	if process < 0 || process > MaxProcess || n < 0 || n > maxCount {
		panic(fmt.Sprintf("history: no value for process %d, record %d", process, n))
	}
	return Value(int64(process)<<countBits | n)
}

// Process is who sent the record.
func (v Value) Process() int32 { return int32(v >> countBits) }

// Count says which of the process's records it is, from 0.
func (v Value) Count() int64 { return int64(v) & maxCount }

func (v Value) String() string {
	if v == Damaged {
		return "a damaged record"
	}
	return fmt.Sprintf("%d.%d", v.Process(), v.Count())
}

// Payload is the bytes of a record: its value, then bytes that follow from it,
// and a checksum; 32 to about size bytes in all, how many follows from the
// value too.
func Payload(v Value, size int) []byte {
	seed := mix(uint64(v))
	n := 32
	if size > 64 {
		n += int(seed % uint64(size-32))
	}
	b := make([]byte, n)
	binary.BigEndian.PutUint64(b, uint64(v))
	for i := 8; i < n-4; i++ {
		if i%8 == 0 {
			seed = mix(seed)
		}
		b[i] = byte(seed >> (8 * (i % 8)))
	}
	binary.BigEndian.PutUint32(b[n-4:], crc32.ChecksumIEEE(b[:n-4]))
	return b
}

// ParsePayload gives the value that a record's bytes were made of, or Damaged.
func ParsePayload(b []byte) Value {
	if len(b) < 32 || binary.BigEndian.Uint32(b[len(b)-4:]) != crc32.ChecksumIEEE(b[:len(b)-4]) {
		return Damaged
	}
	v := Value(binary.BigEndian.Uint64(b))
	if v < 0 || v.Process() > MaxProcess {
		return Damaged
	}
	return v
}

// mix is a step of splitmix64: close numbers give distant ones.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
