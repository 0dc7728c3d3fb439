package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// Every small binary file of the broker has the same frame, big-endian:
//
//	0        4        8         10     12       20            24
//	┌────────┬────────┬─────────┬──────┬────────┬─────────────┬──────┬────────┐
//	│ "FIRN" │ kind 4 │version 2│ 0  2 │number 8│body length 4│ body │crc32c 4│
//	└────────┴────────┴─────────┴──────┴────────┴─────────────┴──────┴────────┘
//
// The number is what the kind says: mostly a base offset. The checksum covers
// everything before it.
const (
	// FrameHead is the bytes before the body.
	FrameHead = 24
	// FrameExtra is by how much a frame is larger than its body.
	FrameExtra = FrameHead + 4
)

const frameVersion = 1

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrFormat says that a file is not what its name promises, or damaged.
var ErrFormat = errors.New("damaged or foreign file")

// BeginFrame gives a frame whose body of about size bytes is to be appended.
func BeginFrame[N ~int64](kind string, number N, size int) []byte {
	b := make([]byte, FrameHead, FrameExtra+size)
	copy(b, "FIRN")
	copy(b[4:], kind)
	binary.BigEndian.PutUint16(b[8:], frameVersion)
	binary.BigEndian.PutUint64(b[12:], uint64(number))
	return b
}

// EndFrame completes what BeginFrame began.
func EndFrame(b []byte) []byte {
	binary.BigEndian.PutUint32(b[20:], uint32(len(b)-FrameHead))
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// OpenFrame gives number and body of a frame that is all of b. Errors wrap
// ErrFormat.
func OpenFrame[N ~int64](kind string, b []byte) (number N, body []byte, err error) {
	switch {
	case len(b) < FrameExtra:
		return 0, nil, fmt.Errorf("%w: %d bytes are too few", ErrFormat, len(b))
	case string(b[:4]) != "FIRN" || string(b[4:8]) != kind:
		return 0, nil, fmt.Errorf("%w: begins with %q, want %q", ErrFormat, b[:8], "FIRN"+kind)
	case binary.BigEndian.Uint16(b[8:]) != frameVersion:
		return 0, nil, fmt.Errorf("%w: format version %d, this program knows %d", ErrFormat, binary.BigEndian.Uint16(b[8:]), frameVersion)
	case int64(binary.BigEndian.Uint32(b[20:])) != int64(len(b)-FrameExtra):
		return 0, nil, fmt.Errorf("%w: body of %d bytes in a file of %d", ErrFormat, binary.BigEndian.Uint32(b[20:]), len(b))
	}
	end := len(b) - 4
	if got, want := crc32.Checksum(b[:end], castagnoli), binary.BigEndian.Uint32(b[end:]); got != want {
		return 0, nil, fmt.Errorf("%w: stored crc %08x, computed %08x", ErrFormat, want, got)
	}
	return N(binary.BigEndian.Uint64(b[12:])), b[FrameHead:end], nil
}
