package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// A request frame, big-endian (https://kafka.apache.org/protocol#protocol_messages):
//
//	0      4     6        8              12
//	┌──────┬─────┬────────┬──────────────┬───────────────────────┬──────────┬──────┐
//	│length│ API │ API    │ correlation  │ client id: length 2   │ tags, if │ body │
//	│of the│ key │ version│ id           │ (-1 null), bytes; not │ flexible │      │
//	│rest 4│ 2   │ 2      │ 4            │ compact, ever         │          │      │
//	└──────┴─────┴────────┴──────────────┴───────────────────────┴──────────┴──────┘
//
// A reply frame is length 4, correlation id 4, an empty set of tags (one zero
// byte) if the version is flexible and the key is not ApiVersions (KIP-511: a
// client reads that reply before it knows what the broker speaks), body.
const (
	lengthSize = 4
	// headSize is what must be seen before the rest is read: length, key, version.
	headSize = 8
	// minFrame is the least length: key, version, correlation id, client id's length.
	minFrame = 10
)

// head is the start of a frame.
type head struct {
	length       int // of the rest
	key, version int16
}

func parseHead(b []byte) head {
	return head{
		length:  int(int32(binary.BigEndian.Uint32(b))),
		key:     int16(binary.BigEndian.Uint16(b[4:])),
		version: int16(binary.BigEndian.Uint16(b[6:])),
	}
}

// header is what a request says before its body.
type header struct {
	key, version  int16
	correlationID int32
	clientID      string
}

// parseHeader reads the header of frame, without its length, and returns the
// body. flexible: there are tags after the client id. Errors wrap
// ErrMalformed.
func parseHeader(frame []byte, flexible bool) (h header, body []byte, err error) {
	r := newReader(frame)
	h.key, h.version, h.correlationID = r.int16(), r.int16(), r.int32()
	if s := r.stringPtr(false, true); s != nil {
		h.clientID = *s
	}
	if flexible {
		r.skipTags()
	}
	if r.err != nil {
		return h, nil, fmt.Errorf("%w: header: %w", ErrMalformed, r.err)
	}
	return h, r.src, nil
}

// appendReplyHeader starts a reply frame; its length is filled in by
// finishFrame.
func appendReplyHeader(dst []byte, correlationID int32, flexible bool) []byte {
	dst = append(dst, 0, 0, 0, 0)
	dst = binary.BigEndian.AppendUint32(dst, uint32(correlationID))
	if flexible {
		dst = append(dst, 0)
	}
	return dst
}

func flexibleHeader(resp kmsg.Response) bool {
	return resp.IsFlexible() && resp.Key() != keyApiVersions
}

var errReplyTooLarge = errors.New("reply is over 2 GiB")

// finishFrame fills in the length of the frame that begins at start of b and
// has more bytes that are not in b.
func finishFrame(b []byte, start int, more int64) error {
	n := int64(len(b)-start-lengthSize) + more
	if n > math.MaxInt32 {
		return fmt.Errorf("%w: %d bytes", errReplyTooLarge, n)
	}
	binary.BigEndian.PutUint32(b[start:], uint32(n))
	return nil
}

// encodeReply gives a whole reply frame, in memory of its own.
func encodeReply(correlationID int32, resp kmsg.Response) ([]byte, error) {
	buf := getBuffer()
	b := appendReplyHeader(*buf, correlationID, flexibleHeader(resp))
	b = resp.AppendTo(b)
	if err := finishFrame(b, 0, 0); err != nil {
		return nil, err
	}
	if cap(b) > stagingSize {
		return b, nil // it outgrew the buffer, which the collector takes
	}
	own := bytes.Clone(b)
	*buf = b
	putBuffer(buf)
	return own, nil
}
