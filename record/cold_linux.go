package record

import (
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// readCached copies what the page cache has of a range of f, from its start to
// the first page that is missing. known is false when that cannot be known of
// this file system or kernel.
func readCached(f *os.File, p []byte, off int64) (n int, known bool) {
	if len(p) == 0 {
		return 0, true
	}
	iov := unix.Iovec{Base: &p[0]}
	iov.SetLen(len(p))
	for {
		r, _, errno := unix.Syscall6(unix.SYS_PREADV2, f.Fd(), uintptr(unsafe.Pointer(&iov)), 1, uintptr(off), uintptr(uint64(off)>>32), unix.RWF_NOWAIT)
		switch errno {
		case 0:
			return int(r), true
		case syscall.EINTR:
		case syscall.EAGAIN:
			return 0, true
		default:
			return 0, false
		}
	}
}

// isCached says whether all of a range of f is in the page cache, true too
// where that cannot be known. The pages are counted, where the kernel does
// that (Linux 6.5), or else looked at one in coldStride bytes; the last is
// asked for, since pages count from when they are asked of the disk, and come
// in their order.
func isCached(f *os.File, off, n int64) bool {
	page := int64(os.Getpagesize())
	first, end := off/page, (off+n+page-1)/page
	var stat unix.Cachestat_t
	err := unix.Cachestat(uint(f.Fd()), &unix.CachestatRange{Off: uint64(first * page), Len: uint64((end - first) * page)}, &stat, 0)
	if err == nil && int64(stat.Cache) < end-first {
		return false
	}
	for at := off; err != nil && at < off+n; at += coldStride {
		if !byteCached(f, at) {
			return false
		}
	}
	return byteCached(f, off+n-1)
}

func byteCached(f *os.File, at int64) bool {
	var b [1]byte
	n, known := readCached(f, b[:], at)
	return n == 1 || !known
}
