package tiering

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/firnlog/firn/record"
)

// ErrCorrupt says that bytes of an object, manifest or pointer are not what
// was written.
var ErrCorrupt = errors.New("corrupt tiered data")

func corruptf(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrCorrupt}, args...)...)
}

// dec reads fields off the front of b. After the first fault err is set and
// every read gives zero; it never reads or promises more than b holds.
type dec struct {
	b   []byte
	err error
}

func (d *dec) fail(format string, args ...any) {
	if d.err == nil {
		d.err = corruptf(format, args...)
		d.b = nil
	}
}

func (d *dec) take(n int) []byte {
	if d.err != nil || n < 0 || n > len(d.b) {
		d.fail("field of %d bytes in %d", n, len(d.b))
		return nil
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

func (d *dec) u16() uint16 {
	if b := d.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (d *dec) u32() uint32 {
	if b := d.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (d *dec) i64() int64 {
	if b := d.take(8); b != nil {
		return int64(binary.BigEndian.Uint64(b))
	}
	return 0
}

func (d *dec) id16() (id [16]byte) {
	copy(id[:], d.take(16))
	return id
}

// uvar reads an unsigned varint that fits an int64.
func (d *dec) uvar() int64 {
	v, n := binary.Uvarint(d.b)
	if d.err != nil || n <= 0 || int64(v) < 0 {
		d.fail("bad unsigned variable-length integer")
		return 0
	}
	d.b = d.b[n:]
	return int64(v)
}

func (d *dec) svar() int64 {
	v, n := binary.Varint(d.b)
	if d.err != nil || n <= 0 {
		d.fail("bad variable-length integer")
		return 0
	}
	d.b = d.b[n:]
	return v
}

// count reads how many items of at least size bytes follow.
func (d *dec) count(size int) int {
	n := d.uvar()
	if n > int64(len(d.b)/size) {
		d.fail("%d items in %d bytes", n, len(d.b))
		return 0
	}
	return int(n)
}

// blob reads a length and so many bytes.
func (d *dec) blob() []byte { return d.take(d.count(1)) }

func (d *dec) str(max int) string {
	b := d.blob()
	if len(b) > max {
		d.fail("name of %d bytes", len(b))
		return ""
	}
	return string(b)
}

// magic reads eight letters and a version.
func (d *dec) magic(want string, version uint16) {
	got := d.take(len(want))
	if d.err == nil && string(got) != want {
		d.fail("it does not begin with %s", want)
	}
	if v := d.u16(); d.err == nil && v != version {
		d.fail("version %d of %s is unknown", v, want)
	}
}

// end says whether all was read and well.
func (d *dec) end() error {
	if d.err == nil && len(d.b) != 0 {
		d.fail("%d bytes too many", len(d.b))
	}
	return d.err
}

func appendBlob[T ~string | ~[]byte](b []byte, v T) []byte {
	b = binary.AppendUvarint(b, uint64(len(v)))
	return append(b, v...)
}

func appendMagic(b []byte, magic string, version uint16) []byte {
	return binary.BigEndian.AppendUint16(append(b, magic...), version)
}

func uvar(b []byte, v int64) []byte { return binary.AppendUvarint(b, uint64(v)) }
func svar(b []byte, v int64) []byte { return binary.AppendVarint(b, v) }

// sealed puts the checksum of b[4:] into b[:4].
func sealed(b []byte) []byte {
	binary.BigEndian.PutUint32(b, record.CRC32C(b[4:]))
	return b
}

// unseal checks what sealed wrote and gives the rest.
func unseal(b []byte, what string) ([]byte, error) {
	if len(b) < 4 {
		return nil, corruptf("%s of %d bytes", what, len(b))
	}
	if got, want := record.CRC32C(b[4:]), binary.BigEndian.Uint32(b); got != want {
		return nil, corruptf("%s checksum: stored %08x, computed %08x", what, want, got)
	}
	return b[4:], nil
}
