// Package objectstore says what Firn needs of an object store: small objects
// and multi-part ones, written once, never overwritten, read by range, listed
// and deleted. Adapters live below it, one folder each; retry, metrics and
// faults are decorators of a Store. What objects mean belongs to tiering.
package objectstore

import (
	"context"
	"io"
	"iter"
	"time"
)

// MaxSwap is the largest object that Swap writes, in bytes.
const MaxSwap = 1 << 20

// Object is what a listing or Head knows of an object.
type Object struct {
	Key      string
	Size     int64     // bytes
	Modified time.Time // by the store's clock; zero in what Put and Swap return
	ETag     string    // opaque; what Swap compares; empty in listings
	CRC32C   string    // of the content, 8 hex digits; only Head fills it, and "" where the store does not keep one
}

// Store is a bucket (or a prefix in one; keys are relative to it). Methods
// are safe for concurrent use and end early, with ctx's error, when ctx ends.
//
// Keys are as CheckKey says: 1–512 bytes of [0-9A-Za-z._/-] in parts of at
// most 255 bytes, none empty and none beginning with a dot. No key may be
// another key's folder (a and a/b): stores on a file system cannot hold both.
type Store interface {
	// Put writes a new object of exactly size bytes, read from r's present
	// position, as one call: the object is there whole or not at all.
	// ErrExists when the key is taken. Large objects go in parts. A retried
	// Put reads r anew through Seek. Nothing reads r once Put has returned.
	// Where r also is an io.ReaderAt, parts are read concurrently by it.
	// ErrSource when r fails; io.ErrUnexpectedEOF too when it has fewer than
	// size bytes.
	Put(ctx context.Context, key string, r io.ReadSeeker, size int64) (Object, error)
	// Swap writes a small object (≤ MaxSwap) only if the present one's ETag is
	// etag; etag "" means that there must be none. ErrExists otherwise, also
	// when an etag is given and there is no object.
	Swap(ctx context.Context, key string, data []byte, etag string) (Object, error)
	// GetRange opens n bytes from off (n < 0: to the end). Reading fewer than
	// n bytes ends in io.ErrUnexpectedEOF. n 0, or off at the very end with
	// n < 0, gives an empty body. ErrNotFound; ErrRange when off or off+n lies
	// past the object's end, or off is negative. What it returns also is a
	// Body. The caller closes it; ctx covers the reading too.
	GetRange(ctx context.Context, key string, off, n int64) (io.ReadCloser, error)
	// Head describes an object. ErrNotFound.
	Head(ctx context.Context, key string) (Object, error)
	// List yields the objects whose keys start with prefix and are greater
	// than after, in the byte order of their keys, paging as it goes. An error
	// ends it.
	List(ctx context.Context, prefix, after string) iter.Seq2[Object, error]
	// Delete removes an object; one that is not there is no error.
	Delete(ctx context.Context, key string) error
	// String names the store for people, without credentials.
	String() string
	// Close gives up connections. The Store is not used afterwards.
	Close() error
}
