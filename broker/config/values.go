package config

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

type durationField = *time.Duration

func text(field func(*Settings) *string, check func(string) error) func(*Settings, string) error {
	return func(s *Settings, v string) error {
		if check != nil {
			if err := check(v); err != nil {
				return err
			}
		}
		*field(s) = v
		return nil
	}
}

func integer(put func(*Settings, int64), low, high int64) func(*Settings, string) error {
	return func(s *Settings, v string) error {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil && !errors.Is(err, strconv.ErrRange) {
			return fmt.Errorf("%q is not a whole number", v)
		}
		if err != nil || n < low || n > high {
			return fmt.Errorf("%s is not between %d and %d", v, low, high)
		}
		put(s, n)
		return nil
	}
}

func size(put func(*Settings, int64), low, high int64) func(*Settings, string) error {
	return func(s *Settings, v string) error {
		n, err := ParseSize(v)
		if err != nil {
			return err
		}
		if n < low || n > high {
			return fmt.Errorf("%s is not between %s and %s", v, FormatSize(low), FormatSize(high))
		}
		put(s, n)
		return nil
	}
}

func duration(field func(*Settings) durationField, low, high string) func(*Settings, string) error {
	lo, hi := mustDuration(low), mustDuration(high)
	return func(s *Settings, v string) error {
		d, err := time.ParseDuration(v)
		if err != nil {
			return fmt.Errorf("%q is not a duration such as 500ms, 5s, 10m or 2h", v)
		}
		if d < lo || d > hi {
			return fmt.Errorf("%s is not between %s and %s", v, low, high)
		}
		*field(s) = d
		return nil
	}
}

func mustDuration(v string) time.Duration {
	d, err := time.ParseDuration(v)
	if err != nil {
		panic(err) // the table's own constants
	}
	return d
}

func notEmpty(v string) error {
	if strings.TrimSpace(v) == "" {
		return errors.New("is empty")
	}
	return nil
}

// deploymentName checks a name that is shown on a line with others.
func deploymentName(v string) error {
	if len(v) > 128 || strings.ContainsFunc(v, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("must be at most 128 printable ASCII characters without spaces")
	}
	return nil
}

// listenAddr checks HOST:PORT to listen on.
func listenAddr(v string) error {
	_, _, err := splitAddr(v)
	return err
}

// advertiseAddr checks HOST:PORT that clients are to connect to; "" is none.
func advertiseAddr(v string) error {
	if v == "" {
		return nil
	}
	host, port, err := splitAddr(v)
	if err != nil {
		return err
	}
	if host == "" || isWildcardHost(host) {
		return fmt.Errorf("%q is no address that a client could connect to: give a host name or the address of one interface", v)
	}
	if port == 0 {
		return fmt.Errorf("%q has port 0: clients need the real one", v)
	}
	return nil
}

func splitAddr(v string) (host string, port int, err error) {
	host, p, err := net.SplitHostPort(v)
	if err != nil {
		return "", 0, fmt.Errorf("%q is not HOST:PORT (IPv6 as [::1]:PORT)", v)
	}
	port, err = strconv.Atoi(p)
	if err != nil || port < 0 || port > 65535 {
		return "", 0, fmt.Errorf("%q: the port %q is not a number from 0 to 65535", v, p)
	}
	if strings.ContainsAny(host, "/ \t@") {
		return "", 0, fmt.Errorf("%q: %q is not a host name or address", v, host)
	}
	return host, port, nil
}

// seeds reads the comma list of a cluster's peer addresses.
func seeds(s *Settings, v string) error {
	s.Seeds = nil
	if v == "" {
		return nil
	}
	for _, addr := range strings.Split(v, ",") {
		addr = strings.TrimSpace(addr)
		if addr == "" {
			return fmt.Errorf("%q has an empty place", v)
		}
		if err := advertiseAddr(addr); err != nil {
			return err
		}
		if slices.Contains(s.Seeds, addr) {
			return fmt.Errorf("%s is there twice", addr)
		}
		s.Seeds = append(s.Seeds, addr)
	}
	if n := len(s.Seeds); n != 1 && n != 3 && n != 5 {
		return fmt.Errorf("%d addresses: a cluster has 1, 3 or 5 members, further brokers are clients of them", n)
	}
	return nil
}

// isWildcard says whether addr listens on every address.
func isWildcard(addr string) bool {
	host, _, err := splitAddr(addr)
	return err == nil && (host == "" || isWildcardHost(host))
}

func isWildcardHost(host string) bool {
	ip := net.ParseIP(host)
	return ip != nil && ip.IsUnspecified()
}

var units = []struct {
	name  string
	bytes int64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1},
}

// ParseSize reads a number of bytes: digits, with a unit of B, KB, MB, GB, TB
// (powers of 1000) or KiB, MiB, GiB, TiB (of 1024), or none.
func ParseSize(v string) (int64, error) {
	num, mult := strings.TrimSpace(v), int64(1)
	for _, u := range units {
		if rest, ok := cutSuffixFold(num, u.name); ok {
			num, mult = strings.TrimSpace(rest), u.bytes
			break
		}
	}
	n, err := strconv.ParseInt(num, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/mult {
		return 0, fmt.Errorf("%q is not a size such as 1048576, 64MiB or 2GB", v)
	}
	return n * mult, nil
}

func cutSuffixFold(s, suffix string) (string, bool) {
	if len(s) < len(suffix) || !strings.EqualFold(s[len(s)-len(suffix):], suffix) {
		return s, false
	}
	return s[:len(s)-len(suffix)], true
}

// FormatSize writes n bytes in the largest unit of 1024 that divides it.
func FormatSize(n int64) string {
	for i := 3; i >= 0; i-- {
		if u := units[i]; n >= u.bytes && n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10)
}

// Redact gives a store URL without its secrets: a password, and the values of
// query parameters whose names speak of secrets.
func Redact(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		// Not a URL, so there is no telling which part is secret.
		if i := strings.IndexAny(raw, "@?"); i >= 0 {
			return raw[:strings.Index(raw, ":")+1] + "…"
		}
		return raw
	}
	if _, has := u.User.Password(); has {
		u.User = url.UserPassword(u.User.Username(), "xxxxx")
	}
	q := u.Query()
	changed := false
	for k := range q {
		if secretName(k) {
			q.Set(k, "xxxxx")
			changed = true
		}
	}
	if changed {
		u.RawQuery = q.Encode()
	}
	return u.String()
}

func secretName(k string) bool {
	k = strings.ToLower(strings.NewReplacer("-", "", "_", "").Replace(k))
	for _, w := range []string{"secret", "password", "passwd", "token", "accesskey", "credential", "signature", "apikey", "privatekey"} {
		if strings.Contains(k, w) {
			return true
		}
	}
	return false
}
