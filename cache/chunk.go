package cache

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/firnlog/firn/broker/disk"
	"github.com/firnlog/firn/record"
)

// A chunk file, big-endian (docs/formats/cache-chunk.md):
//
//	0          8       10      12       16        24        28       32
//	┌──────────┬───────┬───────┬────────┬─────────┬─────────┬────────┬───────┐
//	│"FIRNCHNK"│version│key    │data    │offset in│data     │header  │ key … │
//	│          │ 2   2 │len  2 │len   4 │object 8 │crc32c 4 │crc32c 4│       │
//	└──────────┴───────┴───────┴────────┴─────────┴─────────┴────────┴───────┘
//	… zeroes up to 4096, the data, zeroes up to a multiple of 4096.
//
// The header's checksum covers bytes [0, 28) and [32, 4096).
const (
	chunkMagic   = "FIRNCHNK"
	chunkVersion = 2
	// HeaderSize is the number of bytes before a chunk file's data.
	HeaderSize  = disk.Block
	fixedHeader = 32
	maxKey      = 512
)

// fileSize is the size of the file of a chunk of n bytes.
func fileSize(n int) int { return int(disk.RoundUp(int64(HeaderSize + n))) }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrCorrupt says that a chunk file is not what was written.
var ErrCorrupt = errors.New("corrupt cache chunk")

// ChunkHeader is what a chunk file says of itself.
type ChunkHeader struct {
	Version int    `json:"version"`
	Object  string `json:"object"`   // key in the object store
	Offset  int64  `json:"offset"`   // of the data in the object
	Length  int64  `json:"length"`   // bytes of data
	Sum     uint32 `json:"dataCrc"`  // CRC-32C of the data
	FileLen int64  `json:"fileSize"` // HeaderSize + Length, rounded up to a multiple of 4096
}

// encodeHeader writes the header of n bytes of data whose CRC-32C is sum.
func encodeHeader(dst []byte, object string, off int64, n int, sum uint32) {
	clear(dst[:HeaderSize])
	copy(dst, chunkMagic)
	binary.BigEndian.PutUint16(dst[8:], chunkVersion)
	binary.BigEndian.PutUint16(dst[10:], uint16(len(object)))
	binary.BigEndian.PutUint32(dst[12:], uint32(n))
	binary.BigEndian.PutUint64(dst[16:], uint64(off))
	binary.BigEndian.PutUint32(dst[24:], sum)
	copy(dst[fixedHeader:], object)
	binary.BigEndian.PutUint32(dst[28:], headerSum(dst))
}

func headerSum(h []byte) uint32 {
	var b [HeaderSize - 4]byte
	copy(b[:], h[:28])
	copy(b[28:], h[32:HeaderSize])
	return record.CRC32C(b[:])
}

func decodeHeader(h []byte) (ChunkHeader, error) {
	if len(h) < HeaderSize {
		return ChunkHeader{}, fmt.Errorf("%w: %d bytes are less than a header", ErrCorrupt, len(h))
	}
	if string(h[:8]) != chunkMagic {
		return ChunkHeader{}, fmt.Errorf("%w: it does not begin with %s", ErrCorrupt, chunkMagic)
	}
	if got, want := headerSum(h), binary.BigEndian.Uint32(h[28:]); got != want {
		return ChunkHeader{}, fmt.Errorf("%w: header checksum: stored %08x, computed %08x", ErrCorrupt, want, got)
	}
	if v := binary.BigEndian.Uint16(h[8:]); v != chunkVersion {
		return ChunkHeader{}, fmt.Errorf("%w: version %d is unknown", ErrCorrupt, v)
	}
	n := int(binary.BigEndian.Uint16(h[10:]))
	if n == 0 || n > maxKey {
		return ChunkHeader{}, fmt.Errorf("%w: key of %d bytes", ErrCorrupt, n)
	}
	length := int64(binary.BigEndian.Uint32(h[12:]))
	return ChunkHeader{
		Version: chunkVersion,
		Object:  string(h[fixedHeader : fixedHeader+n]),
		Offset:  int64(binary.BigEndian.Uint64(h[16:])),
		Length:  length,
		Sum:     binary.BigEndian.Uint32(h[24:]),
		FileLen: int64(fileSize(int(length))),
	}, nil
}

// ReadChunkHeader decodes the header of a chunk file of size bytes and checks
// that the data has the length it says. ErrCorrupt otherwise.
func ReadChunkHeader(r io.ReaderAt, size int64) (ChunkHeader, error) {
	var b [HeaderSize]byte
	if n, err := r.ReadAt(b[:], 0); n < HeaderSize {
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return ChunkHeader{}, errors.Join(fmt.Errorf("%w: %d bytes are less than a header", ErrCorrupt, n), err)
	}
	h, err := decodeHeader(b[:])
	if err != nil {
		return h, err
	}
	if size != h.FileLen {
		return h, fmt.Errorf("%w: file of %d bytes, the header says %d", ErrCorrupt, size, h.FileLen)
	}
	return h, nil
}

// CheckChunk reads a whole chunk file and compares its data with the header.
// buf is scratch space; one of less than 4096 bytes, or none, allocates.
func CheckChunk(r io.ReaderAt, size int64, buf []byte) (ChunkHeader, error) {
	h, err := ReadChunkHeader(r, size)
	if err != nil {
		return h, err
	}
	if len(buf) < disk.Block {
		buf = make([]byte, 256<<10)
	}
	var sum uint32
	for off := int64(0); off < h.Length; {
		p := buf[:min(int64(len(buf)), h.Length-off)]
		if n, err := r.ReadAt(p, HeaderSize+off); n < len(p) {
			return h, fmt.Errorf("%w: reading byte %d: %w", ErrCorrupt, off, err)
		}
		sum = crc32.Update(sum, castagnoli, p)
		off += int64(len(p))
	}
	rest := buf[:min(int64(len(buf)), h.FileLen-HeaderSize-h.Length)]
	if n, err := r.ReadAt(rest, HeaderSize+h.Length); n < len(rest) {
		return h, fmt.Errorf("%w: reading its end: %w", ErrCorrupt, err)
	}
	return h, h.check(sum, rest)
}

// check compares the data's checksum, and looks at what follows the data.
func (h *ChunkHeader) check(sum uint32, rest []byte) error {
	if sum != h.Sum {
		return fmt.Errorf("%w: data checksum of %s at %d: stored %08x, computed %08x", ErrCorrupt, h.Object, h.Offset, h.Sum, sum)
	}
	for i, b := range rest {
		if b != 0 {
			return fmt.Errorf("%w: byte %d after the data is %#x, not 0", ErrCorrupt, i, b)
		}
	}
	return nil
}

// holds says what else is in the file than it should be.
func (h *ChunkHeader) holds(object string, off int64, n int) error {
	if h.Object != object || h.Offset != off || h.Length != int64(n) {
		return fmt.Errorf("%w: it holds %s at %d, %d bytes", ErrCorrupt, h.Object, h.Offset, h.Length)
	}
	return nil
}

// id names a chunk in memory and, as hexadecimal, in its file's name.
type id [16]byte

func chunkID(object string, off int64, n int) id {
	b := make([]byte, 16, 16+len(object))
	binary.BigEndian.PutUint64(b, uint64(off))
	binary.BigEndian.PutUint64(b[8:], uint64(n))
	sum := sha256.Sum256(append(b, object...))
	return id(sum[:16])
}

func (i id) String() string { return hex.EncodeToString(i[:]) }
