// Package minio stores objects in MinIO, and in other services that its users
// reach with its client, through minio-go.
package minio

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strings"
	"time"

	mc "github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/firnlog/firn/objectstore"
	"github.com/firnlog/firn/objectstore/multipart"
)

const (
	sumKey    = "Firn-Crc32c" // user metadata: the object's CRC-32C
	crcHeader = "X-Amz-Checksum-Crc32c"
	octets    = "application/octet-stream"
)

// Config says which bucket of which server. Host and Bucket must be set.
type Config struct {
	Host   string // host or host:port
	TLS    bool
	Bucket string
	Prefix string // folder in the bucket, without slashes at its ends
	Region string // [us-east-1, MinIO's own default]

	// AccessKey and SecretKey stand in for the chain that Credentials gives.
	AccessKey, SecretKey string

	PartSize    int64 // bytes, at least 5 MiB [multipart.PartSize]; up to this, objects go whole
	Concurrency int   // parts under way at once [multipart.Concurrency]
}

// FromURL takes over a parsed minio:// URL.
func FromURL(u objectstore.URL) Config {
	return Config{Host: u.Host, TLS: u.TLS, Bucket: u.Bucket, Prefix: u.Prefix, Region: u.Region}
}

// Store is a bucket or a folder in one.
type Store struct {
	cfg       Config
	prefix    string // "" or ends in a slash
	core      mc.Core
	transport *http.Transport
	limit     multipart.Limiter
}

var _ objectstore.Store = (*Store)(nil)

// Open makes the client. It does not talk to the server: that one may be down.
func Open(_ context.Context, cfg Config) (*Store, error) {
	if cfg.Host == "" || cfg.Bucket == "" {
		return nil, errors.New("minio: host and bucket must be given")
	}
	if cfg.Region == "" {
		cfg.Region = "us-east-1"
	}
	if cfg.PartSize == 0 {
		cfg.PartSize = multipart.PartSize
	}
	if cfg.PartSize < 5<<20 {
		return nil, fmt.Errorf("minio: part size %d is below 5 MiB, which the server refuses", cfg.PartSize)
	}
	if cfg.Concurrency <= 0 {
		cfg.Concurrency = multipart.Concurrency
	}
	transport := objectstore.NewTransport()
	creds := Credentials(cfg.Host, cfg.TLS)
	if cfg.AccessKey != "" {
		creds = credentials.NewStaticV4(cfg.AccessKey, cfg.SecretKey, "")
	}
	core, err := mc.NewCore(cfg.Host, &mc.Options{
		Creds: creds, Secure: cfg.TLS, Region: cfg.Region, Transport: transport,
		BucketLookup: mc.BucketLookupPath,
		MaxRetries:   1, // WithRetry is the one retry policy
	})
	if err != nil {
		return nil, fmt.Errorf("minio: %w", err)
	}
	s := &Store{cfg: cfg, core: *core, transport: transport, limit: multipart.NewLimiter(cfg.Concurrency)}
	if cfg.Prefix != "" {
		s.prefix = cfg.Prefix + "/"
	}
	return s, nil
}

// String gives the store's URL.
func (s *Store) String() string {
	u := objectstore.URL{Scheme: "minio", Host: s.cfg.Host, TLS: s.cfg.TLS, Bucket: s.cfg.Bucket, Prefix: s.cfg.Prefix}
	if s.cfg.Region != "us-east-1" {
		u.Region = s.cfg.Region
	}
	return u.String()
}

// Close gives up idle connections.
func (s *Store) Close() error {
	s.transport.CloseIdleConnections()
	return nil
}

func fail(ctx context.Context, op, key string, err error) error {
	var resp mc.ErrorResponse
	if errors.As(err, &resp) {
		return objectstore.Fail(ctx, op, key, objectstore.KindOfStatus(resp.StatusCode, resp.Code), err)
	}
	if errors.Is(err, objectstore.ErrSource) || errors.Is(err, io.ErrUnexpectedEOF) {
		return objectstore.Fail(ctx, op, key, nil, err)
	}
	return objectstore.Fail(ctx, op, key, objectstore.ErrUnavailable, err)
}

// options gives the headers of a conditional write: only over the object with
// this ETag; "": only where there is none.
func options(sum multipart.CRC, etag string) mc.PutObjectOptions {
	opts := mc.PutObjectOptions{
		ContentType:  octets,
		UserMetadata: map[string]string{sumKey: sum.Hex()},
	}
	if etag == "" {
		opts.SetMatchETagExcept("*")
	} else {
		opts.SetMatchETag(etag)
	}
	return opts
}

// Put writes up to PartSize bytes in one request, more in parts.
func (s *Store) Put(ctx context.Context, key string, r io.ReadSeeker, size int64) (objectstore.Object, error) {
	if err := objectstore.CheckKey(key); err != nil {
		return objectstore.Object{}, objectstore.Fail(ctx, "put", key, objectstore.ErrKey, err)
	}
	src, err := multipart.NewSource(ctx, r, size, s.cfg.PartSize)
	if err != nil {
		return objectstore.Object{}, objectstore.Fail(ctx, "put", key, nil, err)
	}
	defer src.Stop()
	if src.Parts() > 1 {
		return s.putParts(ctx, key, src)
	}
	return s.putWhole(ctx, "put", key, src, "")
}

func (s *Store) putWhole(ctx context.Context, op, key string, src *multipart.Source, etag string) (objectstore.Object, error) {
	opts := options(src.Sum(), etag)
	opts.UserMetadata[crcHeader] = src.Sum().Base64()
	info, err := s.core.PutObject(ctx, s.cfg.Bucket, s.prefix+key, src.Section(0, src.Size()), src.Size(), "", "", opts)
	if err != nil {
		err = fail(ctx, op, key, err)
		if etag != "" && errors.Is(err, objectstore.ErrNotFound) {
			err = objectstore.Fail(ctx, op, key, objectstore.ErrExists, err)
		}
		return objectstore.Object{}, err
	}
	return objectstore.Object{Key: key, Size: src.Size(), ETag: info.ETag}, nil
}

func (s *Store) putParts(ctx context.Context, key string, src *multipart.Source) (objectstore.Object, error) {
	bucket, object := s.cfg.Bucket, s.prefix+key
	id, err := s.core.NewMultipartUpload(ctx, bucket, object, mc.PutObjectOptions{
		ContentType:  octets,
		UserMetadata: map[string]string{sumKey: src.Sum().Hex(), "X-Amz-Checksum-Algorithm": "CRC32C"},
	})
	if err != nil {
		return objectstore.Object{}, fail(ctx, "put", key, err)
	}
	done := make([]mc.CompletePart, src.Parts())
	err = multipart.Send(ctx, src, s.limit, func(ctx context.Context, p multipart.Part) error {
		part, err := s.core.PutObjectPart(ctx, bucket, object, id, p.Number, p.Body, p.Size, mc.PutObjectPartOptions{
			CustomHeader: http.Header{crcHeader: {p.CRC.Base64()}},
		})
		if err != nil {
			return fail(ctx, fmt.Sprintf("put part %d of", p.Number), key, err)
		}
		done[p.Number-1] = mc.CompletePart{PartNumber: p.Number, ETag: part.ETag, ChecksumCRC32C: p.CRC.Base64()}
		return nil
	})
	var info mc.UploadInfo
	if err == nil {
		var opts mc.PutObjectOptions
		opts.SetMatchETagExcept("*")
		if info, err = s.core.CompleteMultipartUpload(ctx, bucket, object, id, done, opts); err != nil {
			err = fail(ctx, "complete put", key, err)
		}
	}
	if err != nil {
		// A Complete that came through after all has ended the upload: then
		// there is nothing to abort, and the object stays.
		_ = multipart.Cleanup(ctx, func(ctx context.Context) error {
			return s.core.AbortMultipartUpload(ctx, bucket, object, id)
		})
		return objectstore.Object{}, err
	}
	return objectstore.Object{Key: key, Size: src.Size(), ETag: info.ETag}, nil
}

// Swap writes if the present object's ETag is etag.
func (s *Store) Swap(ctx context.Context, key string, data []byte, etag string) (objectstore.Object, error) {
	if err := objectstore.CheckSwap(key, data); err != nil {
		return objectstore.Object{}, objectstore.Fail(ctx, "swap", key, objectstore.ErrKey, err)
	}
	src, err := multipart.NewSource(ctx, bytes.NewReader(data), int64(len(data)), multipart.PartSize)
	if err != nil {
		return objectstore.Object{}, objectstore.Fail(ctx, "swap", key, nil, err)
	}
	defer src.Stop()
	return s.putWhole(ctx, "swap", key, src, etag)
}

// GetRange opens a range.
func (s *Store) GetRange(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	if err := objectstore.CheckGet(key, off, n); err != nil {
		return nil, objectstore.Fail(ctx, "get", key, nil, err)
	}
	if n == 0 {
		return objectstore.EmptyRange(ctx, s, key, off, nil)
	}
	var opts mc.GetObjectOptions
	if rng := objectstore.RangeHeader(off, n); rng != "" {
		opts.Set("Range", rng)
	}
	rc, info, header, err := s.core.GetObject(ctx, s.cfg.Bucket, s.prefix+key, opts)
	if err != nil {
		err = fail(ctx, "get", key, err)
		if n < 0 && errors.Is(err, objectstore.ErrRange) {
			return objectstore.EmptyRange(ctx, s, key, off, err)
		}
		return nil, err
	}
	length, err := objectstore.CheckRange(off, n, header.Get("Content-Range"), info.Size)
	if err != nil {
		_ = rc.Close()
		return nil, objectstore.Fail(ctx, "get", key, nil, err)
	}
	return objectstore.NewBody(rc, key, length, info.ETag), nil
}

// Head describes an object.
func (s *Store) Head(ctx context.Context, key string) (objectstore.Object, error) {
	if err := objectstore.CheckKey(key); err != nil {
		return objectstore.Object{}, objectstore.Fail(ctx, "head", key, objectstore.ErrKey, err)
	}
	info, err := s.core.StatObject(ctx, s.cfg.Bucket, s.prefix+key, mc.StatObjectOptions{})
	if err != nil {
		err = fail(ctx, "head", key, err)
		if errors.Is(err, objectstore.ErrNotFound) {
			// A HEAD has no body to say what is missing: is the bucket there?
			if ok, berr := s.core.BucketExists(ctx, s.cfg.Bucket); berr == nil && !ok {
				err = objectstore.Fail(ctx, "head", key, objectstore.ErrNoBucket, fmt.Errorf("bucket %q", s.cfg.Bucket))
			}
		}
		return objectstore.Object{}, err
	}
	obj := objectstore.Object{Key: key, Size: info.Size, Modified: info.LastModified.In(time.UTC), ETag: info.ETag}
	for k, v := range info.UserMetadata {
		if strings.EqualFold(k, sumKey) {
			obj.CRC32C = v
		}
	}
	return obj, nil
}

// List pages with ListObjectsV2.
func (s *Store) List(ctx context.Context, prefix, after string) iter.Seq2[objectstore.Object, error] {
	return func(yield func(objectstore.Object, error) bool) {
		opts := mc.ListObjectsOptions{Prefix: s.prefix + prefix, Recursive: true}
		if after != "" {
			opts.StartAfter = s.prefix + after
		}
		for info := range s.core.ListObjectsIter(ctx, s.cfg.Bucket, opts) {
			if info.Err != nil {
				yield(objectstore.Object{}, fail(ctx, "list", prefix, info.Err))
				return
			}
			rel, ok := strings.CutPrefix(info.Key, s.prefix)
			if !ok || rel == "" || rel <= after { // a folder's own marker, or a server that knows no start-after
				continue
			}
			if !yield(objectstore.Object{Key: rel, Size: info.Size, Modified: info.LastModified}, nil) {
				return
			}
		}
		if err := ctx.Err(); err != nil { // the client's iterator just ends then
			yield(objectstore.Object{}, objectstore.Fail(ctx, "list", prefix, err, err))
		}
	}
}

// Delete removes an object.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := objectstore.CheckKey(key); err != nil {
		return objectstore.Fail(ctx, "delete", key, objectstore.ErrKey, err)
	}
	err := s.core.RemoveObject(ctx, s.cfg.Bucket, s.prefix+key, mc.RemoveObjectOptions{})
	if err != nil {
		if err = fail(ctx, "delete", key, err); errors.Is(err, objectstore.ErrNotFound) {
			return nil
		}
	}
	return err
}
