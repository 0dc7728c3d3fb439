package objectstore

import (
	"fmt"
	"hash/crc32"
	"io"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Sum reads r to its end and gives its CRC-32C as Object.CRC32C holds it.
func Sum(r io.Reader) (string, error) {
	h := crc32.New(castagnoli)
	if _, err := io.CopyBuffer(h, r, make([]byte, 256<<10)); err != nil {
		return "", err
	}
	return FormatCRC32C(h.Sum32()), nil
}

// SumBytes is Sum of bytes in memory.
func SumBytes(b []byte) string { return FormatCRC32C(crc32.Checksum(b, castagnoli)) }

// FormatCRC32C writes a checksum as Object.CRC32C holds it.
func FormatCRC32C(v uint32) string { return fmt.Sprintf("%08x", v) }
