// Package s3 stores objects in Amazon S3, and in services that speak its
// protocol at an endpoint of their own, through aws-sdk-go-v2. Credentials,
// region and the like come from where the AWS tools look for them:
// environment, shared config and credentials files, SSO, web identity, the
// container's or the instance's role.
package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/firnlog/firn/objectstore"
	"github.com/firnlog/firn/objectstore/multipart"
)

// sumKey is the user metadata that holds the object's CRC-32C: a multi-part
// object's own checksum is one of its parts' checksums, and other services
// keep none.
const sumKey = "firn-crc32c"

// Config says which bucket. Only Bucket must be set.
type Config struct {
	Bucket    string
	Prefix    string // folder in the bucket, without slashes at its ends
	Region    string // "": as the AWS tools find it; us-east-1 where an Endpoint is given and there is none
	Endpoint  string // "": Amazon's; else http://host:port or https://…
	PathStyle bool   // bucket in the path, not in the host name

	// AccessKey and SecretKey stand in for the AWS default chain.
	AccessKey, SecretKey string

	PartSize    int64 // bytes, at least 5 MiB [multipart.PartSize]; up to this, objects go whole
	Concurrency int   // parts under way at once [multipart.Concurrency]
}

// FromURL takes over a parsed s3:// URL.
func FromURL(u objectstore.URL) Config {
	return Config{Bucket: u.Bucket, Prefix: u.Prefix, Region: u.Region, Endpoint: u.Endpoint, PathStyle: u.PathStyle}
}

// Store is a bucket or a folder in one.
type Store struct {
	cfg       Config
	prefix    string // "" or ends in a slash
	client    *awss3.Client
	transport *http.Transport
	limit     multipart.Limiter
}

var _ objectstore.Store = (*Store)(nil)

// Open reads the AWS configuration. It does not talk to the store: that one
// may be down.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.Bucket == "" {
		return nil, errors.New("s3: no bucket given")
	}
	if cfg.PartSize == 0 {
		cfg.PartSize = multipart.PartSize
	}
	if cfg.PartSize < 5<<20 {
		return nil, fmt.Errorf("s3: part size %d is below 5 MiB, which S3 refuses", cfg.PartSize)
	}
	if cfg.Concurrency <= 0 {
		cfg.Concurrency = multipart.Concurrency
	}
	opts := []func(*config.LoadOptions) error{
		// This kind of client lets the configuration add to it (AWS_CA_BUNDLE).
		config.WithHTTPClient(awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
			objectstore.ConfigureTransport(t)
		})),
		// WithRetry is the one retry policy.
		config.WithRetryer(func() aws.Retryer { return aws.NopRetryer{} }),
		config.WithRequestChecksumCalculation(aws.RequestChecksumCalculationWhenRequired),
		config.WithResponseChecksumValidation(aws.ResponseChecksumValidationWhenRequired),
	}
	if cfg.Region != "" {
		opts = append(opts, config.WithRegion(cfg.Region))
	}
	if cfg.AccessKey != "" {
		opts = append(opts, config.WithCredentialsProvider(credentials.NewStaticCredentialsProvider(cfg.AccessKey, cfg.SecretKey, "")))
	}
	ac, err := config.LoadDefaultConfig(ctx, opts...)
	if err != nil {
		return nil, fmt.Errorf("s3: AWS configuration: %w", err)
	}
	if ac.Region == "" {
		if cfg.Endpoint == "" {
			return nil, errors.New("s3: no region: add ?region=… to the store's URL or set AWS_REGION")
		}
		ac.Region = "us-east-1"
	}
	transport := objectstore.NewTransport()
	if c, ok := ac.HTTPClient.(*awshttp.BuildableClient); ok {
		transport = c.GetTransport()
	}
	s := &Store{cfg: cfg, transport: transport, limit: multipart.NewLimiter(cfg.Concurrency)}
	if cfg.Prefix != "" {
		s.prefix = cfg.Prefix + "/"
	}
	s.client = awss3.NewFromConfig(ac, func(o *awss3.Options) {
		o.HTTPClient = &http.Client{Transport: transport, CheckRedirect: noRedirect}
		o.UsePathStyle = cfg.PathStyle
		o.DisableLogOutputChecksumValidationSkipped = true
		if cfg.Endpoint != "" {
			o.BaseEndpoint = aws.String(cfg.Endpoint)
		}
	})
	return s, nil
}

// noRedirect leaves redirects to another region's endpoint as the errors that
// they are: a signature for one host does not hold at another.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// String gives the store's URL.
func (s *Store) String() string {
	return objectstore.URL{Scheme: "s3", Bucket: s.cfg.Bucket, Prefix: s.cfg.Prefix, Region: s.cfg.Region,
		Endpoint: s.cfg.Endpoint, PathStyle: s.cfg.PathStyle}.String()
}

// Close gives up idle connections.
func (s *Store) Close() error {
	s.transport.CloseIdleConnections()
	return nil
}

func (s *Store) key(key string) *string { return aws.String(s.prefix + key) }

// fail turns the SDK's error into one of objectstore's.
func (s *Store) fail(ctx context.Context, op, key string, err error) error {
	return objectstore.Fail(ctx, op, key, kindOf(err), err)
}

func kindOf(err error) error {
	var code string
	var api smithy.APIError
	if errors.As(err, &api) {
		code = api.ErrorCode()
	}
	var resp *smithyhttp.ResponseError
	if errors.As(err, &resp) && resp.Response != nil {
		return objectstore.KindOfStatus(resp.HTTPStatusCode(), code)
	}
	if api != nil {
		return objectstore.KindOfStatus(0, code)
	}
	var sign *v4.SigningError
	if errors.As(err, &sign) { // no credentials found
		return objectstore.ErrDenied
	}
	switch {
	case errors.Is(err, objectstore.ErrSource):
		return objectstore.ErrSource
	case errors.Is(err, io.ErrUnexpectedEOF):
		return nil
	}
	return objectstore.ErrUnavailable
}

// unsignedOverTLS leaves the body out of the signature where TLS and the
// CRC-32C header already guard it: a SHA-256 of every byte costs more than
// everything else that a Put does.
func (s *Store) unsignedOverTLS(o *awss3.Options) {
	if !strings.HasPrefix(s.cfg.Endpoint, "http://") {
		o.APIOptions = append(o.APIOptions, v4.SwapComputePayloadSHA256ForUnsignedPayloadMiddleware)
	}
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

// putWhole writes in one request if the present object's ETag is etag; "": if
// there is none.
func (s *Store) putWhole(ctx context.Context, op, key string, src *multipart.Source, etag string) (objectstore.Object, error) {
	size := src.Size()
	in := &awss3.PutObjectInput{
		Bucket: &s.cfg.Bucket, Key: s.key(key), Body: src.Section(0, size), ContentLength: &size,
		ContentType:    aws.String("application/octet-stream"),
		ChecksumCRC32C: aws.String(src.Sum().Base64()),
		Metadata:       map[string]string{sumKey: src.Sum().Hex()},
	}
	if etag == "" {
		in.IfNoneMatch = aws.String("*")
	} else {
		in.IfMatch = aws.String(strconv.Quote(etag))
	}
	out, err := s.client.PutObject(ctx, in, s.unsignedOverTLS)
	if err != nil {
		err = s.fail(ctx, op, key, err)
		if etag != "" && errors.Is(err, objectstore.ErrNotFound) {
			err = objectstore.Fail(ctx, op, key, objectstore.ErrExists, err)
		}
		return objectstore.Object{}, err
	}
	return objectstore.Object{Key: key, Size: size, ETag: unquote(out.ETag)}, nil
}

func (s *Store) putParts(ctx context.Context, key string, src *multipart.Source) (objectstore.Object, error) {
	up, err := s.client.CreateMultipartUpload(ctx, &awss3.CreateMultipartUploadInput{
		Bucket: &s.cfg.Bucket, Key: s.key(key),
		ContentType:       aws.String("application/octet-stream"),
		ChecksumAlgorithm: types.ChecksumAlgorithmCrc32c,
		Metadata:          map[string]string{sumKey: src.Sum().Hex()},
	})
	if err != nil {
		return objectstore.Object{}, s.fail(ctx, "put", key, err)
	}
	done := make([]types.CompletedPart, src.Parts())
	err = multipart.Send(ctx, src, s.limit, func(ctx context.Context, p multipart.Part) error {
		number, crc := aws.Int32(int32(p.Number)), aws.String(p.CRC.Base64())
		out, err := s.client.UploadPart(ctx, &awss3.UploadPartInput{
			Bucket: &s.cfg.Bucket, Key: s.key(key), UploadId: up.UploadId, PartNumber: number,
			Body: p.Body, ContentLength: &p.Size, ChecksumCRC32C: crc,
		}, s.unsignedOverTLS)
		if err != nil {
			return s.fail(ctx, fmt.Sprintf("put part %d of", p.Number), key, err)
		}
		done[p.Number-1] = types.CompletedPart{PartNumber: number, ETag: out.ETag, ChecksumCRC32C: crc}
		return nil
	})
	var out *awss3.CompleteMultipartUploadOutput
	if err == nil {
		out, err = s.client.CompleteMultipartUpload(ctx, &awss3.CompleteMultipartUploadInput{
			Bucket: &s.cfg.Bucket, Key: s.key(key), UploadId: up.UploadId, IfNoneMatch: aws.String("*"),
			MultipartUpload: &types.CompletedMultipartUpload{Parts: done},
		})
		if err != nil {
			err = s.fail(ctx, "complete put", key, err)
		}
	}
	if err != nil {
		// A Complete that came through after all has ended the upload: then
		// there is nothing to abort, and the object stays.
		_ = multipart.Cleanup(ctx, func(ctx context.Context) error {
			_, err := s.client.AbortMultipartUpload(ctx, &awss3.AbortMultipartUploadInput{
				Bucket: &s.cfg.Bucket, Key: s.key(key), UploadId: up.UploadId})
			return err
		})
		return objectstore.Object{}, err
	}
	return objectstore.Object{Key: key, Size: src.Size(), ETag: unquote(out.ETag)}, nil
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
	in := &awss3.GetObjectInput{Bucket: &s.cfg.Bucket, Key: s.key(key)}
	if rng := objectstore.RangeHeader(off, n); rng != "" {
		in.Range = &rng
	}
	out, err := s.client.GetObject(ctx, in)
	if err != nil {
		err = s.fail(ctx, "get", key, err)
		if n < 0 && errors.Is(err, objectstore.ErrRange) {
			return objectstore.EmptyRange(ctx, s, key, off, err)
		}
		return nil, err
	}
	length, err := objectstore.CheckRange(off, n, aws.ToString(out.ContentRange), aws.ToInt64(out.ContentLength))
	if err != nil {
		_ = out.Body.Close()
		return nil, objectstore.Fail(ctx, "get", key, nil, err)
	}
	return objectstore.NewBody(out.Body, key, length, unquote(out.ETag)), nil
}

// Head describes an object.
func (s *Store) Head(ctx context.Context, key string) (objectstore.Object, error) {
	if err := objectstore.CheckKey(key); err != nil {
		return objectstore.Object{}, objectstore.Fail(ctx, "head", key, objectstore.ErrKey, err)
	}
	out, err := s.client.HeadObject(ctx, &awss3.HeadObjectInput{Bucket: &s.cfg.Bucket, Key: s.key(key)})
	if err != nil {
		err = s.fail(ctx, "head", key, err)
		if errors.Is(err, objectstore.ErrNotFound) {
			// A HEAD has no body to say what is missing: is the bucket there?
			if _, berr := s.client.HeadBucket(ctx, &awss3.HeadBucketInput{Bucket: &s.cfg.Bucket}); errors.Is(kindOf(berr), objectstore.ErrNotFound) {
				err = objectstore.Fail(ctx, "head", key, objectstore.ErrNoBucket, fmt.Errorf("bucket %q", s.cfg.Bucket))
			}
		}
		return objectstore.Object{}, err
	}
	obj := objectstore.Object{Key: key, Size: aws.ToInt64(out.ContentLength), Modified: aws.ToTime(out.LastModified), ETag: unquote(out.ETag)}
	for k, v := range out.Metadata {
		if strings.EqualFold(k, sumKey) {
			obj.CRC32C = v
		}
	}
	return obj, nil
}

// List pages with ListObjectsV2.
func (s *Store) List(ctx context.Context, prefix, after string) iter.Seq2[objectstore.Object, error] {
	return func(yield func(objectstore.Object, error) bool) {
		in := &awss3.ListObjectsV2Input{Bucket: &s.cfg.Bucket, Prefix: s.key(prefix)}
		if after != "" {
			in.StartAfter = s.key(after)
		}
		for {
			page, err := s.client.ListObjectsV2(ctx, in)
			if err != nil {
				yield(objectstore.Object{}, s.fail(ctx, "list", prefix, err))
				return
			}
			for _, o := range page.Contents {
				if err := ctx.Err(); err != nil {
					yield(objectstore.Object{}, s.fail(ctx, "list", prefix, err))
					return
				}
				rel, ok := strings.CutPrefix(aws.ToString(o.Key), s.prefix)
				if !ok || rel == "" || rel <= after { // a folder's own marker, or a service that knows no StartAfter
					continue
				}
				if !yield(objectstore.Object{Key: rel, Size: aws.ToInt64(o.Size), Modified: aws.ToTime(o.LastModified)}, nil) {
					return
				}
			}
			if !aws.ToBool(page.IsTruncated) {
				return
			}
			if aws.ToString(page.NextContinuationToken) == "" {
				yield(objectstore.Object{}, objectstore.Fail(ctx, "list", prefix, objectstore.ErrUnavailable, errors.New("page is cut off but has no continuation")))
				return
			}
			in.ContinuationToken = page.NextContinuationToken
		}
	}
}

// Delete removes an object.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := objectstore.CheckKey(key); err != nil {
		return objectstore.Fail(ctx, "delete", key, objectstore.ErrKey, err)
	}
	_, err := s.client.DeleteObject(ctx, &awss3.DeleteObjectInput{Bucket: &s.cfg.Bucket, Key: s.key(key)})
	if err != nil {
		if err = s.fail(ctx, "delete", key, err); errors.Is(err, objectstore.ErrNotFound) {
			return nil
		}
	}
	return err
}

func unquote(etag *string) string { return strings.Trim(aws.ToString(etag), `"`) }
