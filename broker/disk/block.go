package disk

import "unsafe"

// Block is what writes past the page cache are multiples of, and the greatest
// piece of a file that is assumed to be torn by a power loss as one.
const Block = 4096

// RoundUp gives the least multiple of Block that is n or more.
func RoundUp(n int64) int64 { return (n + Block - 1) &^ (Block - 1) }

// AlignedBytes makes n bytes of memory that begin at a multiple of Block.
func AlignedBytes(n int) []byte {
	b := make([]byte, n+Block)
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (Block - 1))
	return b[skip : skip+n : skip+n]
}
