package objectstore

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// ErrURL says that a store's URL cannot be used; the text says why.
var ErrURL = errors.New("object store URL")

// URL is where a store is, without credentials: those come from where each
// provider's users keep them. Only the fields of its scheme are set.
type URL struct {
	Scheme    string // s3, gs, minio or file
	Bucket    string // s3, gs, minio
	Prefix    string // s3, gs, minio: folder in the bucket, without slashes at its ends; may be empty
	Region    string // s3, minio; "" leaves it to the environment (s3) or means us-east-1 (minio)
	Endpoint  string // s3: another S3 service, http://host:port or https://…
	PathStyle bool   // s3: http://endpoint/bucket/key and not http://bucket.endpoint/key; on by default where an endpoint is given
	Host      string // minio: host:port
	TLS       bool   // minio; on by default
	Dir       string // file: as given, so perhaps relative to the working folder
}

var schemes = map[string][]string{ // scheme → its parameters
	"s3":    {"region", "endpoint", "path_style"},
	"gs":    {},
	"minio": {"tls", "region"},
	"file":  {},
}

var urlForms = map[string]string{
	"s3":    "s3://BUCKET/PREFIX?region=REGION&endpoint=URL",
	"gs":    "gs://BUCKET/PREFIX",
	"minio": "minio://HOST:PORT/BUCKET/PREFIX?tls=false",
	"file":  "file:///DIR (or file:DIR below the working folder)",
}

// ParseURL reads a store's URL: s3://bucket/prefix?region=…&endpoint=…,
// gs://bucket/prefix, minio://host:port/bucket/prefix?tls=false, file:///dir,
// file:dir. Its errors wrap ErrURL and name the nearest valid scheme or
// parameter. It looks at nothing but s.
func ParseURL(s string) (URL, error) {
	if s == "" {
		return URL{}, fmt.Errorf("%w: empty; give one of %s", ErrURL, forms())
	}
	scheme, _, ok := strings.Cut(s, ":")
	if !ok || strings.ContainsAny(scheme, "/?.") {
		return URL{}, fmt.Errorf("%w: %q has no scheme; give one of %s (a folder is file:%s)", ErrURL, redact(s), forms(), redact(s))
	}
	scheme = strings.ToLower(scheme)
	params, known := schemes[scheme]
	if !known {
		near := nearest(scheme, keys(schemes))
		return URL{}, fmt.Errorf("%w: unknown scheme %q, the nearest is %q: %s", ErrURL, scheme, near, urlForms[near])
	}
	u, err := url.Parse(s)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) { // its text would repeat the URL, and a password with it
			err = ue.Err
		}
		return URL{}, fmt.Errorf("%w: %w; the form is %s", ErrURL, err, urlForms[scheme])
	}
	if u.User != nil {
		return URL{}, fmt.Errorf("%w: credentials do not belong in it; they come from the environment, a profile or the instance's role", ErrURL)
	}
	if u.Fragment != "" || strings.Contains(s, "#") {
		return URL{}, fmt.Errorf("%w: %q has a fragment (#…), which means nothing here", ErrURL, s)
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return URL{}, fmt.Errorf("%w: parameters of %q: %w", ErrURL, s, err)
	}
	for _, name := range keys(query) {
		if !slices.Contains(params, name) {
			if len(params) == 0 {
				return URL{}, fmt.Errorf("%w: unknown parameter %q; %s:// takes none", ErrURL, name, scheme)
			}
			return URL{}, fmt.Errorf("%w: unknown parameter %q of %s://, the nearest is %q; there are: %s",
				ErrURL, name, scheme, nearest(name, params), strings.Join(params, ", "))
		}
		if len(query[name]) > 1 {
			return URL{}, fmt.Errorf("%w: parameter %q is given %d times", ErrURL, name, len(query[name]))
		}
	}
	return parseKnown(URL{Scheme: scheme}, u, query)
}

func parseKnown(out URL, u *url.URL, query url.Values) (URL, error) {
	var err error
	rest := strings.Trim(u.Path, "/")
	switch out.Scheme {
	case "file":
		return parseFile(out, u)
	case "minio":
		if out.Host = u.Host; u.Hostname() == "" {
			return URL{}, fmt.Errorf("%w: no host; the form is %s", ErrURL, urlForms["minio"])
		}
		if p := u.Port(); p != "" && !validPort(p) {
			return URL{}, fmt.Errorf("%w: port %q is none", ErrURL, p)
		}
		out.Bucket, out.Prefix, _ = strings.Cut(rest, "/")
		out.Region = query.Get("region")
		if out.TLS, err = flag(query, "tls", true); err != nil {
			return URL{}, err
		}
	case "gs":
		out.Bucket, out.Prefix = u.Host, rest
	case "s3":
		out.Bucket, out.Prefix = u.Host, rest
		out.Region, out.Endpoint = query.Get("region"), strings.TrimRight(query.Get("endpoint"), "/")
		if err := checkEndpoint(out.Endpoint); err != nil {
			return URL{}, err
		}
		if out.PathStyle, err = flag(query, "path_style", out.Endpoint != ""); err != nil {
			return URL{}, err
		}
	}
	if out.Bucket == "" {
		return URL{}, fmt.Errorf("%w: no bucket; the form is %s", ErrURL, urlForms[out.Scheme])
	}
	if err := checkBucket(out.Bucket, out.Scheme); err != nil {
		return URL{}, err
	}
	return out, checkPrefix(out.Prefix)
}

func parseFile(out URL, u *url.URL) (URL, error) {
	if u.Host != "" && u.Host != "localhost" {
		return URL{}, fmt.Errorf("%w: file://%s… names a host; for a folder below the working folder write file:%s, else file:///…", ErrURL, u.Host, u.Host+u.Path)
	}
	dir := u.Path
	if u.Opaque != "" {
		var err error
		if dir, err = url.PathUnescape(u.Opaque); err != nil {
			return URL{}, fmt.Errorf("%w: %w", ErrURL, err)
		}
	}
	if dir == "" || strings.ContainsRune(dir, 0) {
		return URL{}, fmt.Errorf("%w: no folder; the form is %s", ErrURL, urlForms["file"])
	}
	out.Dir = path.Clean(dir)
	return out, nil
}

func flag(q url.Values, name string, def bool) (bool, error) {
	if !q.Has(name) {
		return def, nil
	}
	b, err := strconv.ParseBool(q.Get(name))
	if err != nil {
		return false, fmt.Errorf("%w: parameter %s is %q, but must be true or false", ErrURL, name, q.Get(name))
	}
	return b, nil
}

func checkEndpoint(s string) error {
	if s == "" {
		return nil
	}
	e, err := url.Parse(s)
	if err != nil || (e.Scheme != "http" && e.Scheme != "https") || e.Hostname() == "" ||
		e.Path != "" || e.RawQuery != "" || e.User != nil || (e.Port() != "" && !validPort(e.Port())) {
		return fmt.Errorf("%w: parameter endpoint is %q, but must be like https://host:port", ErrURL, redact(s))
	}
	return nil
}

func validPort(p string) bool {
	n, err := strconv.ParseUint(p, 10, 16)
	return err == nil && n > 0
}

// checkBucket is a little wider than each provider's rule: the store has the
// last word, this only catches what is surely a slip.
func checkBucket(b, scheme string) error {
	bad := len(b) < 3 || len(b) > 222 || net.ParseIP(b) != nil
	for _, r := range b {
		bad = bad || notKeyByte(r) || 'A' <= r && r <= 'Z'
	}
	if bad {
		return fmt.Errorf("%w: %q is no bucket name (3 or more of lower-case letters, digits, . - _); the form is %s", ErrURL, b, urlForms[scheme])
	}
	return nil
}

func checkPrefix(p string) error {
	if p == "" {
		return nil
	}
	// A prefix is the owner's choice: a little wider than our own keys.
	if err := CheckKey(strings.NewReplacer("=", "-", "+", "-", "@", "-").Replace(p)); err != nil {
		return fmt.Errorf("%w: prefix %q: %w", ErrURL, p, err)
	}
	if len(p) > 400 {
		return fmt.Errorf("%w: prefix is %d bytes long, at most 400 are allowed", ErrURL, len(p))
	}
	return nil
}

// String gives the URL in its canonical form; ParseURL of it gives u again.
func (u URL) String() string {
	q := url.Values{}
	out := url.URL{Scheme: u.Scheme, Host: u.Bucket, Path: "/" + u.Prefix}
	switch u.Scheme {
	case "file":
		if !strings.HasPrefix(u.Dir, "/") {
			return (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: u.Dir}).EscapedPath()}).String()
		}
		return "file://" + (&url.URL{Path: u.Dir}).EscapedPath()
	case "minio":
		out.Host, out.Path = u.Host, "/"+u.Bucket+"/"+u.Prefix
		if !u.TLS {
			q.Set("tls", "false")
		}
	case "s3":
		if u.Endpoint != "" {
			q.Set("endpoint", u.Endpoint)
		}
		if u.PathStyle != (u.Endpoint != "") {
			q.Set("path_style", strconv.FormatBool(u.PathStyle))
		}
	}
	if u.Region != "" {
		q.Set("region", u.Region)
	}
	out.Path = strings.TrimSuffix(out.Path, "/")
	out.RawQuery = q.Encode()
	return out.String()
}

// redact hides what may be a password in a URL that could not be parsed.
func redact(s string) string {
	if i := strings.LastIndex(s, "@"); i >= 0 {
		return "…" + s[i:]
	}
	return s
}

func forms() string {
	var out []string
	for _, k := range keys(urlForms) {
		out = append(out, urlForms[k])
	}
	return strings.Join(out, ", ")
}

func keys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}

// nearest gives the valid word that takes the fewest edits from s. Aliases
// that people know from elsewhere count as exact.
func nearest(s string, valid []string) string {
	alias := map[string]string{"gcs": "gs", "s3a": "s3", "s3n": "s3", "aws": "s3", "http": "minio", "https": "minio",
		"dir": "file", "path": "file", "secure": "tls", "ssl": "tls", "force_path_style": "path_style"}
	if a, ok := alias[s]; ok && slices.Contains(valid, a) {
		return a
	}
	best, dist := "", 1<<30
	for _, v := range valid {
		if d := editDistance(s, v); d < dist {
			best, dist = v, d
		}
	}
	return best
}

func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diag := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			diag, row[j] = row[j], min(row[j]+1, row[j-1]+1, diag+cost)
		}
	}
	return row[len(b)]
}
