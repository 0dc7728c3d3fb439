package main

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"regexp"
	"strings"
)

// schemas are those of the provider, its resources and its data sources.
type schemas struct {
	Provider  block            `json:"provider"`
	Resources map[string]block `json:"resources"`
	Data      map[string]block `json:"data"`
}

// block is a resource, or a block in one.
type block struct {
	Attributes map[string]attribute `json:"attributes,omitempty"`
	Blocks     map[string]nested    `json:"blocks,omitempty"`
}

type attribute struct {
	Type     string `json:"type"`             // string, number, bool, list, set, map (of strings), or objects
	Object   *block `json:"object,omitempty"` // of objects: what each of the list has
	Required bool   `json:"required,omitempty"`
	Optional bool   `json:"optional,omitempty"`
	Computed bool   `json:"computed,omitempty"`
}

type nested struct {
	Nesting  string `json:"nesting"` // list, set or single
	Required bool   `json:"required,omitempty"`
	One      bool   `json:"one,omitempty"` // at most one
	Block    block  `json:"block"`
}

// alsoComputed are optional arguments that Google fills in when they are left
// out. The package does not tell them from those that it leaves empty; these
// are the ones that modules refer to.
var alsoComputed = map[string]bool{"id": true, "project": true, "region": true, "address": true, "self_link": true}

// file is a resource's code in the package: what it declares and what it does.
type file struct{ types, code string }

// readPackage reads every resource and data source of compute, storage, DNS,
// IAM and the client's own configuration.
func readPackage(tgz string) (*schemas, error) {
	files, err := unpack(tgz)
	if err != nil {
		return nil, err
	}
	s := &schemas{Resources: map[string]block{}, Data: map[string]block{}}
	for dir, f := range files {
		kind := found(kindOf, f.code)
		class := found(classOf, f.code)
		if kind == "" || class == "" {
			continue
		}
		b, err := f.read(class, class+"Config")
		if err != nil {
			return nil, fmt.Errorf("%s: %w", dir, err)
		}
		switch {
		case kind == "google":
			s.Provider = b
		case strings.HasPrefix(dir, "data-"):
			s.Data[kind] = b
		default:
			s.Resources[kind] = b
		}
	}
	if len(s.Resources) < 50 || len(s.Data) < 50 || len(s.Provider.Attributes) == 0 {
		return nil, fmt.Errorf("%s: only %d resources and %d data sources: not the package that was expected", tgz, len(s.Resources), len(s.Data))
	}
	return s, nil
}

func unpack(tgz string) (map[string]file, error) {
	f, err := os.Open(tgz)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", tgz, err)
	}
	files := map[string]file{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", tgz, err)
		}
		dir, name := path.Split(strings.TrimPrefix(h.Name, "package/lib/"))
		dir = strings.TrimSuffix(dir, "/")
		if !wanted.MatchString(dir) || (name != "index.js" && name != "index.d.ts") {
			continue
		}
		text, err := io.ReadAll(r)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", tgz, err)
		}
		e := files[dir]
		if name == "index.js" {
			e.code = string(text)
		} else {
			e.types = string(text)
		}
		files[dir] = e
	}
}

var (
	wanted   = regexp.MustCompile(`^(provider|data-google-client-config|(data-google-)?(compute|storage|dns|service-account|project-iam)[a-z-]*)$`)
	kindOf   = regexp.MustCompile(`\.tfResourceType = "([a-z0-9_]+)"`)
	classOf  = regexp.MustCompile(`(?m)^class (\w+) extends cdktf\.Terraform(?:Resource|DataSource|Provider) `)
	input    = regexp.MustCompile(`#(\w+) \w+#\w+\}\s*(?:[^*]|\*[^/])*\*/\s*readonly \w+(\??): ([^;]+);`)
	simple   = regexp.MustCompile(`(tolist\()?this\.get(String|Number|Boolean|List|NumberList|StringMap|BooleanMap|AnyMap|Any)Attribute\('(\w+)'\)`)
	mapped   = regexp.MustCompile(`new cdktf\.(String|Boolean|Number|Any)Map\(this, "(\w+)"\)`)
	children = regexp.MustCompile(`this\._\w+ = new (\w+?)(List|OutputReference)\(this, "(\w+)"(?:, (true|false))?\)`)
)

func found(r *regexp.Regexp, text string) string {
	if m := r.FindStringSubmatch(text); m != nil {
		return m[1]
	}
	return ""
}

// between gives the text from a line that begins with start to the next line
// that is a closing brace.
func between(text, start string) string {
	i := strings.Index(text, start)
	if i < 0 {
		return ""
	}
	text = text[i:]
	if end := strings.Index(text, "\n}"); end >= 0 {
		return text[:end]
	}
	return text
}

// read gives the block that a class and its interface of inputs describe.
func (f file) read(class, iface string) (block, error) {
	b := block{Attributes: map[string]attribute{}, Blocks: map[string]nested{}}
	type in struct {
		required bool
		typ      string
	}
	inputs := map[string]in{}
	decl := between(f.types, "export interface "+iface+" ")
	for _, m := range input.FindAllStringSubmatch(decl, -1) {
		inputs[m[1]] = in{m[2] == "", m[3]}
	}
	body := between(f.code, "class "+class+" extends")
	if body == "" {
		return b, fmt.Errorf("no class %s", class)
	}
	add := func(name, typ string) {
		i, isInput := inputs[name]
		b.Attributes[name] = attribute{Type: typ, Required: isInput && i.required, Optional: isInput && !i.required,
			Computed: !isInput || !i.required && alsoComputed[name]}
	}
	for _, m := range simple.FindAllStringSubmatch(body, -1) {
		typ := map[string]string{"String": "string", "Number": "number", "Boolean": "bool", "List": "list", "NumberList": "numbers",
			"StringMap": "map", "BooleanMap": "map", "AnyMap": "map", "Any": "string"}[m[2]]
		if m[1] != "" && typ == "list" {
			typ = "set"
		}
		add(m[3], typ)
	}
	for _, m := range mapped.FindAllStringSubmatch(body, -1) {
		add(m[2], "map")
	}
	for _, m := range children.FindAllStringSubmatch(body, -1) {
		name := m[3]
		child, err := f.read(m[1]+"OutputReference", m[1])
		if err != nil {
			return b, err
		}
		i, isInput := inputs[name]
		if !isInput {
			b.Attributes[name] = attribute{Type: "objects", Object: &child, Computed: true}
			continue
		}
		n := nested{Nesting: "list", Required: i.required, One: m[2] == "OutputReference", Block: child}
		switch {
		case name == "timeouts":
			n.Nesting = "single"
		case m[4] == "true":
			n.Nesting = "set"
		}
		b.Blocks[name] = n
	}
	// The provider's own settings have no getters of this form.
	for name, i := range inputs {
		if _, ok := b.Attributes[name]; !ok && b.Blocks[name].Nesting == "" && i.typ == "string" {
			add(name, "string")
		}
	}
	return b, nil
}
