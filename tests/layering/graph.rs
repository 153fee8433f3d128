//! The graph of modules: who names whom, and circles in it.

use std::collections::{BTreeMap, BTreeSet};

/// A module, as its path from the root of the crate.
type Module = Vec<String>;
type Edges = BTreeMap<Module, BTreeSet<Module>>;

/// Returns each circle among the children of one module, with the edges that close it.
pub(crate) fn circles(files: &BTreeMap<String, String>) -> Vec<String> {
    let edges = edges(files);
    let parents: BTreeSet<&[String]> =
        edges.keys().flat_map(|module| (0..module.len()).map(|depth| &module[..depth])).collect();
    parents.into_iter().filter(|parent| !parent.is_empty()).flat_map(|parent| below(parent, &edges)).collect()
}

/// Returns the circles among the children of `parent`.
fn below(parent: &[String], edges: &Edges) -> Vec<String> {
    let depth = parent.len();
    let child = |module: &Module| module.starts_with(parent).then(|| module.get(depth).cloned()).flatten();
    let mut children: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut because = BTreeMap::new();
    for (from, named) in edges {
        for to in named {
            if let (Some(a), Some(b)) = (child(from), child(to))
                && a != b
            {
                because.entry((a.clone(), b.clone())).or_insert((from, to));
                children.entry(a).or_default().insert(b);
            }
        }
    }
    let leads = |a: &str, b: &str| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![a]);
        while let Some(at) = next.pop() {
            for to in children.get(at).into_iter().flatten() {
                if to == b {
                    return true;
                }
                if seen.insert(to) {
                    next.push(to);
                }
            }
        }
        false
    };
    let back = because.iter().filter(|((a, b), _)| leads(b, a));
    back.map(|(_, (from, to))| format!("{} names {}", from.join("/"), to.join("/"))).collect()
}

/// Returns which modules each module names in its product code.
fn edges(files: &BTreeMap<String, String>) -> Edges {
    let split = |name: &String| name.split('/').map(str::to_owned).collect::<Module>();
    let modules: BTreeMap<Module, Vec<Module>> =
        files.iter().map(|(name, text)| (split(name), paths(&without_comments(text)))).collect();
    // What a module imports from its own children: others may name it through the module.
    let mut imported: BTreeMap<(Module, String), Module> = BTreeMap::new();
    for (module, paths) in &modules {
        for path in paths.iter().filter_map(|path| absolute(module, path, &modules)) {
            if path.len() > module.len() && path.starts_with(module) {
                imported.insert((module.clone(), path.last().unwrap().clone()), path);
            }
        }
    }
    let resolve = |path: Module| {
        let mut path = path;
        for _ in 0..4 {
            let owner = owner(&path, &modules);
            let name = path.get(owner.len()).cloned().unwrap_or_default();
            match imported.get(&(owner.clone(), name)) {
                Some(behind) if *behind != path => {
                    path = behind.iter().chain(&path[owner.len() + 1..]).cloned().collect();
                }
                _ => return owner,
            }
        }
        owner(&path, &modules)
    };
    let named = |(module, paths): (&Module, &Vec<Module>)| {
        let found = paths.iter().filter_map(|path| absolute(module, path, &modules)).map(resolve);
        (module.clone(), found.filter(|to| !to.is_empty() && to != module).collect())
    };
    modules.iter().map(named).collect()
}

/// Returns the deepest module that a path begins with.
fn owner(path: &Module, modules: &BTreeMap<Module, Vec<Module>>) -> Module {
    let prefixes = (0..=path.len()).rev().map(|length| path[..length].to_vec());
    prefixes.into_iter().find(|prefix| modules.contains_key(prefix)).unwrap_or_default()
}

/// Returns a path from the root. `None` means that it begins with the name of another crate.
fn absolute(module: &Module, path: &Module, modules: &BTreeMap<Module, Vec<Module>>) -> Option<Module> {
    let supers = path.iter().take_while(|part| *part == "super").count();
    let (base, rest) = match path.first()?.as_str() {
        "crate" => (0, &path[1..]),
        "self" => (module.len(), &path[1..]),
        "super" => (module.len().checked_sub(supers)?, &path[supers..]),
        first => {
            let child: Module = module.iter().cloned().chain([first.to_owned()]).collect();
            (modules.contains_key(&child).then_some(module.len())?, &path[..])
        }
    };
    Some(module[..base].iter().chain(rest).cloned().collect())
}

fn without_comments(text: &str) -> String {
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Returns the paths of all imports, and those that code names from `crate`, `self` or `super` on.
fn paths(code: &str) -> Vec<Module> {
    let (mut found, mut rest) = (Vec::new(), String::new());
    for (index, part) in code.split("use ").enumerate() {
        let after_word = index > 0;
        match part.split_once(';').filter(|_| after_word) {
            Some((tree, behind)) => {
                expand(tree, &mut found);
                rest.push_str(behind);
            }
            None => rest.push_str(part),
        }
    }
    let is_of_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let words = rest.split(|c: char| !is_of_path(c));
    let from_here =
        |word: &&str| ["crate::", "self::", "super::"].iter().any(|start| word.starts_with(start));
    found.extend(words.filter(from_here).map(parts));
    found
}

/// Expands the tree of a `use`: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn expand(tree: &str, found: &mut Vec<Module>) {
    let tree = tree.trim();
    let Some((start, group)) = tree.split_once('{') else {
        return found.push(parts(tree.split(" as ").next().unwrap()));
    };
    let group = group.trim_end().strip_suffix('}').unwrap_or(group);
    let (mut depth, mut begin) = (0, 0);
    for (at, c) in group.char_indices().chain([(group.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let branch = group[begin..at].trim();
                if !branch.is_empty() {
                    expand(&format!("{start}{branch}"), found);
                }
                begin = at + 1;
            }
            _ => {}
        }
    }
}

fn parts(path: &str) -> Module {
    path.trim().split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

#[test]
fn a_circle_is_found_also_through_what_a_parent_imports() {
    let file = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    let parent = file("room", "mod a;\nmod b;\npub use a::Thing;\n");
    let a = file("room/a", "use super::b::{self, Other as O};\nstruct Thing;\n");
    let straight = [parent.clone(), a.clone(), file("room/b", "struct Other;\n")];
    assert_eq!(circles(&straight.into()), [""; 0]);
    for back in ["use super::Thing;", "use crate::room::{a, c};", "fn f() -> crate::room::a::Thing {}"] {
        let files = [parent.clone(), a.clone(), file("room/b", back)];
        assert_eq!(circles(&files.into()), ["room/a names room/b", "room/b names room/a"], "{back}");
    }
}
