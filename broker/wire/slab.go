package wire

import (
	"math/bits"
	"sync"
)

// slab is the memory of one frame. Frames of Produce come from pools, since
// they are large and their life is known: from the read until reply was
// called. Frames of other keys are left to the garbage collector, so that a
// group that keeps a member's metadata keeps valid memory.
type slab struct {
	buf   []byte
	class int // index of its pool, -1 for none
}

// Pools have four sizes per power of two, from 4 KiB to 16 MiB: at most a
// quarter is wasted. Larger frames are rare and are not kept.
const (
	minSlabShift = 12
	maxSlabShift = 24
	slabClasses  = 4*(maxSlabShift-minSlabShift) + 1
)

var slabPools [slabClasses]sync.Pool

// slabClass gives the class whose size is the least of n or more, and that
// size; class -1 when n is over the largest.
func slabClass(n int) (class, size int) {
	if n <= 1<<minSlabShift {
		return 0, 1 << minSlabShift
	}
	if n > 1<<maxSlabShift {
		return -1, n
	}
	shift := bits.Len(uint(n-1)) - 1 // 2^shift < n ≤ 2^(shift+1)
	step := 1 << (shift - 2)
	quarter := (n - 1<<shift + step - 1) / step // 1 to 4
	return 4*(shift-minSlabShift) + quarter, 1<<shift + quarter*step
}

func newSlab(n int, pooled bool) *slab {
	if !pooled {
		return &slab{buf: make([]byte, n), class: -1}
	}
	class, size := slabClass(n)
	if class < 0 {
		return &slab{buf: make([]byte, n), class: -1}
	}
	if s, ok := slabPools[class].Get().(*slab); ok {
		s.buf = s.buf[:n]
		return s
	}
	return &slab{buf: make([]byte, n, size), class: class}
}

// release gives the memory back. Nothing may alias it any more.
func (s *slab) release() {
	if s.class >= 0 {
		if poison {
			b := s.buf[:cap(s.buf)]
			for i := range b {
				b[i] = 0xdb
			}
		}
		slabPools[s.class].Put(s)
	}
}

// poison makes release overwrite the memory, so that tests see who still
// reads it.
var poison bool

// replyBuffers are for encoding and copying replies.
var replyBuffers = sync.Pool{New: func() any { b := make([]byte, 0, stagingSize); return &b }}

const (
	stagingSize     = 64 << 10
	maxPooledBuffer = 1 << 20 // one that has grown more is left to the collector
)

func getBuffer() *[]byte { return replyBuffers.Get().(*[]byte) }

func putBuffer(b *[]byte) {
	if cap(*b) <= maxPooledBuffer {
		*b = (*b)[:0]
		replyBuffers.Put(b)
	}
}
