package objectstore_test

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/firnlog/firn/objectstore"
)

func TestParseURL(t *testing.T) {
	for s, want := range map[string]objectstore.URL{
		"s3://my-bucket":                                                   {Scheme: "s3", Bucket: "my-bucket"},
		"s3://my-bucket/a/b/?region=eu-west-1":                             {Scheme: "s3", Bucket: "my-bucket", Prefix: "a/b", Region: "eu-west-1"},
		"s3://bkt/p?endpoint=http://127.0.0.1:9000":                        {Scheme: "s3", Bucket: "bkt", Prefix: "p", Endpoint: "http://127.0.0.1:9000", PathStyle: true},
		"s3://bkt?endpoint=https%3A%2F%2Fs3.example.com/&path_style=false": {Scheme: "s3", Bucket: "bkt", Endpoint: "https://s3.example.com"},
		"S3://bkt?path_style=true":                                         {Scheme: "s3", Bucket: "bkt", PathStyle: true},
		"gs://bucket_1/x":                                                  {Scheme: "gs", Bucket: "bucket_1", Prefix: "x"},
		"minio://localhost:9000/bkt":                                       {Scheme: "minio", Host: "localhost:9000", Bucket: "bkt", TLS: true},
		"minio://127.0.0.1:9000/bkt/env=prod?tls=false":                    {Scheme: "minio", Host: "127.0.0.1:9000", Bucket: "bkt", Prefix: "env=prod"},
		"minio://[::1]:9000/bkt?tls=0&region=eu":                           {Scheme: "minio", Host: "[::1]:9000", Bucket: "bkt", Region: "eu"},
		"minio://minio.example.com/bkt":                                    {Scheme: "minio", Host: "minio.example.com", Bucket: "bkt", TLS: true},
		"file:///var/lib/firn/":                                            {Scheme: "file", Dir: "/var/lib/firn"},
		"file:///with%20space":                                             {Scheme: "file", Dir: "/with space"},
		"file://localhost/x":                                               {Scheme: "file", Dir: "/x"},
		"file:/x":                                                          {Scheme: "file", Dir: "/x"},
		"file:dir/sub":                                                     {Scheme: "file", Dir: "dir/sub"},
		"file:./dir":                                                       {Scheme: "file", Dir: "dir"},
		"file:../dir":                                                      {Scheme: "file", Dir: "../dir"},
	} {
		got, err := objectstore.ParseURL(s)
		if err != nil || got != want {
			t.Errorf("%s:\n got %+v, %v\nwant %+v", s, got, err, want)
			continue
		}
		if again, err := objectstore.ParseURL(got.String()); err != nil || again != got {
			t.Errorf("%s: written as %s, which reads as %+v, %v", s, got, again, err)
		}
	}
}

func TestParseURLRefuses(t *testing.T) {
	for s, says := range map[string]string{
		"":                                 "s3://",
		"bucket/prefix":                    "has no scheme",
		"./dir":                            "file:./dir",
		"/var/lib":                         "file:/var/lib",
		"s4://bkt":                         `unknown scheme "s4", the nearest is "s3"`,
		"gcs://bkt":                        `the nearest is "gs"`,
		"mino://h/bkt":                     `the nearest is "minio"`,
		"http://h:9000/bkt":                `the nearest is "minio"`,
		"flie:///x":                        `the nearest is "file"`,
		"s3://":                            "no bucket",
		"s3:bucket":                        "no bucket",
		"gs://":                            "no bucket",
		"minio://host:9000":                "no bucket",
		"minio://host:9000/":               "no bucket",
		"minio:///bkt":                     "no host",
		"minio://host:0/bkt":               "port",
		"minio://host:99999/bkt":           "port",
		"file:":                            "no folder",
		"file://":                          "no folder",
		"file://host/dir":                  "names a host",
		"file:///x?y=1":                    "takes none",
		"gs://bkt?region=x":                "takes none",
		"s3://bkt?regoin=x":                `the nearest is "region"`,
		"s3://bkt?endpiont=x":              `the nearest is "endpoint"`,
		"minio://h/bkt?ssl=false":          `the nearest is "tls"`,
		"minio://h/bkt?tls=perhaps":        "true or false",
		"s3://bkt?region=a&region=b":       "2 times",
		"s3://bkt?endpoint=127.0.0.1:9000": "https://host:port",
		"s3://bkt?endpoint=ftp://h":        "https://host:port",
		"s3://bkt?endpoint=http://h/path":  "https://host:port",
		"s3://Bucket":                      "no bucket name",
		"s3://ab":                          "no bucket name",
		"s3://10.0.0.1/x":                  "no bucket name",
		"s3://bkt/a//b":                    "empty part",
		"s3://bkt/../b":                    "begins with a dot",
		"s3://bkt/.firn":                   "begins with a dot",
		"s3://bkt/a%20b":                   "holds",
		"s3://bkt#frag":                    "fragment",
		"s3://AKIA:hunter2secret@bkt":      "credentials",
		"minio://u:hunter2secret@h:1/bkt":  "credentials",
		"minio://u:hunter2%secret@h:1/bkt": "object store URL",
		"u:hunter2secret@host/x":           "unknown scheme",
		"//u:hunter2secret@host/x":         "has no scheme",
		"s3://bkt?endpoint=http://u:hunter2secret@h":                       "https://host:port",
		"s3://bkt/" + strings.Repeat("p/", 150) + strings.Repeat("q", 200): "at most 400",
		"\x00": "no scheme",
	} {
		u, err := objectstore.ParseURL(s)
		if err == nil {
			t.Errorf("%q was read as %+v", s, u)
			continue
		}
		if !errors.Is(err, objectstore.ErrURL) || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: error %q does not say %q", s, err, says)
		}
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: error %q repeats the password", s, err)
		}
	}
}

func FuzzParseURL(f *testing.F) {
	for _, s := range []string{"s3://bkt/p?region=x&endpoint=http://h:1", "gs://bkt", "minio://h:1/b/c?tls=false", "file:///x", "file:x", "file:%2e", "S3:", "::", "minio://[::1]:1/bkt"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := objectstore.ParseURL(s)
		if err != nil {
			if !errors.Is(err, objectstore.ErrURL) {
				t.Fatalf("%q: %v is no ErrURL", s, err)
			}
			return
		}
		if again, err := objectstore.ParseURL(u.String()); err != nil || again != u {
			t.Fatalf("%q is %+v, written as %q, which is %+v, %v", s, u, u.String(), again, err)
		}
	})
}

func TestKeys(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		parts := rapid.SliceOfN(rapid.StringMatching(`[0-9A-Za-z_-][0-9A-Za-z._-]{0,20}`), 1, 10).Draw(t, "parts")
		key := strings.Join(parts, "/")
		if err := objectstore.CheckKey(key); err != nil {
			t.Fatal(err)
		}
		i := rapid.IntRange(0, len(key)-1).Draw(t, "i")
		bad := rapid.SampledFrom([]string{"//", "/.", " ", "\\", "é", "\x7f", "*", "?", "#"}).Draw(t, "bad")
		if err := objectstore.CheckKey(key[:i] + bad + key[i:]); !errors.Is(err, objectstore.ErrKey) {
			t.Fatalf("%q: %v", key[:i]+bad+key[i:], err)
		}
	})
}

func TestCheckRange(t *testing.T) {
	for _, tc := range []struct {
		off, n int64
		header string
		length int64
		want   int64
		err    error
	}{
		{0, -1, "", 10, 10, nil},
		{0, 10, "bytes 0-9/10", 10, 10, nil},
		{5, -1, "bytes 5-9/10", 5, 5, nil},
		{5, 3, "bytes 5-7/*", 3, 3, nil},
		{0, 10, "", 10, 10, nil},                                  // all of it, range or not
		{0, 20, "bytes 0-9/10", 10, 0, objectstore.ErrRange},      // cut at the end
		{0, 20, "", 10, 0, objectstore.ErrRange},                  // the same, range ignored
		{5, 5, "", 100, 0, objectstore.ErrUnavailable},            // range ignored
		{5, 5, "bytes 4-8/10", 5, 0, objectstore.ErrUnavailable},  // other bytes
		{5, 5, "bytes 5-9/10", 4, 0, objectstore.ErrUnavailable},  // lengths differ
		{5, 5, "bytes 5-10/20", 6, 0, objectstore.ErrUnavailable}, // more than asked
		{5, 5, "bytes 9-5/10", -3, 0, objectstore.ErrUnavailable}, // nonsense
		{5, 5, "lines 5-9/10", 5, 0, objectstore.ErrUnavailable},  // nonsense
		{5, 5, "bytes */10", 5, 0, objectstore.ErrUnavailable},    // nonsense
		{0, -1, "", -1, 0, objectstore.ErrUnavailable},            // no length
	} {
		got, err := objectstore.CheckRange(tc.off, tc.n, tc.header, tc.length)
		if got != tc.want || !errors.Is(err, tc.err) || (err == nil) != (tc.err == nil) {
			t.Errorf("%d+%d, %q, %d: %d, %v; want %d, %v", tc.off, tc.n, tc.header, tc.length, got, err, tc.want, tc.err)
		}
	}
}
